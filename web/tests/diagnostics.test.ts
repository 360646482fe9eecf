import { describe, expect, it } from "vitest";
import { diagnosticCharts } from "../src/lib/diagnostics";
import { buckets } from "./buckets";

describe("diagnostic charts", () => {
  it("have the parts of a step in one chart, in milliseconds", () => {
    const charts = diagnosticCharts({
      "step/load_seconds": buckets([0, 4], [0.25, null]),
      "step/compute_seconds": buckets([0, 4], [0.5, 0.5]),
    });
    expect(charts.map(([title]) => title)).toEqual(["Time of a step, ms"]);
    expect(charts[0]?.[1].map(({ label, y }) => [label, y])).toEqual([
      ["computation", [500, 500]],
      ["data loading", [250, null]],
    ]);
  });

  it("leave out a wait that never occurs, and keep an idle processor", () => {
    const charts = diagnosticCharts({
      "step/compute_seconds": buckets([0], [0.5]),
      "step/synchronize_seconds": buckets([0], [0]),
      "machine/cpu_percent": buckets([0], [0]),
    });
    expect(charts.map(([title, lines]) => [title, lines.map(({ label }) => label)])).toEqual([
      ["Time of a step, ms", ["computation"]],
      ["CPU, %", ["all workers"]],
    ]);
  });

  it("are none without their series", () => {
    expect(diagnosticCharts({ "train/loss": buckets([0], [1]) })).toEqual([]);
  });
});
