import "uplot/dist/uPlot.min.css";
import "./style.css";
import { render } from "preact";
import { App } from "./app";
import { exported } from "./lib/exported";
import { followLinks } from "./lib/route";
import { loadSession, session } from "./session";

followLinks();
if (exported) session.value = exported.session;
else loadSession();
render(<App />, document.body);
