import { describe, expect, it } from "vitest";
import { dimensionOf, isBrushed } from "../src/lib/parallel";

describe("axes of parallel coordinates", () => {
  it("place numbers between the lowest and the highest, also by their logarithm", () => {
    expect(dimensionOf("lr", [0.001, 0.1], true).locate(0.01)).toBeCloseTo(0.5);
    expect(dimensionOf("lr", [0, 10, null], false).locate(5)).toBe(0.5);
    expect(dimensionOf("lr", [3, 3], false).locate(3)).toBe(0.5);
  });

  it("place categories at equal distances, and nothing where there is no value", () => {
    const { locate, labels } = dimensionOf("shortcut", ["C", "A", "B", "A"], false);
    expect(["A", "B", "C", null].map(locate)).toEqual([0, 0.5, 1, null]);
    expect(labels.map(({ text }) => text)).toEqual(["A", "B", "C"]);
  });

  it("choose the rows whose values are in all ranges", () => {
    const dimensions = [dimensionOf("a", [0, 10], false), dimensionOf("b", ["x", "y"], false)];
    const brushes = { a: [0.4, 1], b: [0, 0.1] } as const;
    expect(isBrushed({ a: 5, b: "x" }, dimensions, brushes)).toBe(true);
    expect(isBrushed({ a: 5, b: "y" }, dimensions, brushes)).toBe(false);
    expect(isBrushed({ a: null, b: "x" }, dimensions, brushes)).toBe(false);
  });
});
