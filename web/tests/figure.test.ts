import zlib from "node:zlib";
import { describe, expect, it } from "vitest";
import { type Figure, ticks, toCsv, toLatex, toSvg, withText } from "../src/lib/figure";

const FIGURE: Figure = {
  xLabel: "Iterations",
  yLabel: "Error, %",
  top: 20,
  source: [{ jobs: ["0665a1c66j5pnr4p"] }],
  lines: [
    { label: "plain-20 train", color: "", stroke: "#c0392b", x: [0, 10], y: [60, 5], dash: [5, 4] },
    {
      label: "a <b>, test",
      color: "",
      stroke: "#1f5fbf",
      x: [0, 10],
      y: [15, null],
      low: [14, 2],
      high: [16, 4],
    },
  ],
};

describe("figures", () => {
  it("contain what they were made of, in each format", () => {
    for (const made of [toSvg(FIGURE), toCsv(FIGURE), toLatex(FIGURE)])
      expect(made).toContain("0665a1c66j5pnr4p");
  });

  it("are the same file for the same data", () => {
    expect(toSvg(FIGURE)).toBe(toSvg(structuredClone(FIGURE)));
  });

  it("clip values at the top and escape labels in SVG", () => {
    const svg = toSvg(FIGURE);
    // 60 % and the top of 20 % are both at the upper margin.
    expect(svg).toContain('d="M62 14L624 284"');
    expect(svg).toContain("a &lt;b&gt;, test");
    expect(svg).toContain('stroke-dasharray="5 4"');
  });

  it("quote labels in CSV and leave gaps empty", () => {
    expect(toCsv(FIGURE).split("\n").slice(1)).toEqual([
      "line,x,y,low,high",
      "plain-20 train,0,60,,",
      "plain-20 train,10,5,,",
      '"a <b>, test",0,15,14,16',
      '"a <b>, test",10,,2,4',
      "",
    ]);
  });

  it("leave gaps out of LaTeX and escape its characters", () => {
    const made = toLatex(FIGURE);
    expect(made).toContain("ylabel={Error, \\%}");
    expect(made).toContain("coordinates {(0,15)};");
  });

  it("carry a comment in PNG, with its length and checksum", () => {
    const made = withText(new Uint8Array(20).fill(7), "a");
    const view = new DataView(made.buffer);
    expect(view.getUint32(8)).toBe("Comment\0a".length);
    expect(new TextDecoder().decode(made.subarray(12, 25))).toBe("tEXtComment\0a");
    expect(view.getUint32(25)).toBe(zlib.crc32("tEXtComment\0a"));
    expect([...made.subarray(29)]).toEqual(Array(12).fill(7));
  });

  it("have round ticks", () => {
    expect(ticks(0, 20)).toEqual([0, 5, 10, 15, 20]);
    expect(ticks(0.3, 0.9)).toEqual([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]);
    expect(ticks(3, 3)).toEqual([3]);
  });
});
