import "uplot/dist/uPlot.min.css";
import "./style.css";
import { render } from "preact";
import { App } from "./app";
import { followLinks } from "./lib/route";
import { loadSession } from "./session";

followLinks();
loadSession();
render(<App />, document.body);
