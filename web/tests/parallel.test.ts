import { describe, expect, it } from "vitest";
import { dimensionOf, isBrushed, movedByKey } from "../src/lib/parallel";

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

describe("ends of a range that keys move", () => {
  it("go to the next step, and to where they can go at most", () => {
    expect(movedByKey("ArrowUp", [0, 1], 0, 20)).toEqual([0.05, 1]);
    expect(movedByKey("ArrowDown", [0, 0.33], 1, 10)).toEqual([0, 0.3]);
    expect(movedByKey("ArrowRight", [0.5, 0.5], 0, 20)).toEqual([0.5, 0.5]);
    expect(movedByKey("End", [0, 0.4], 0, 20)).toEqual([0.4, 0.4]);
    expect(movedByKey("Home", [0.2, 0.4], 1, 20)).toEqual([0.2, 0.2]);
  });

  it("leave no range where it has the complete axis, or with Escape", () => {
    expect(movedByKey("Home", [0.4, 1], 0, 20)).toBeNull();
    expect(movedByKey("Escape", [0.2, 0.4], 1, 20)).toBeNull();
    expect(movedByKey("a", [0.2, 0.4], 1, 20)).toBeUndefined();
  });

  it("meet each category exactly", () => {
    const names = ["2", "4", "8", "16", "32", "64", "128"];
    const { locate, steps, textAt } = dimensionOf("size", names, false);
    let range: readonly [number, number] = [0, 1];
    for (const name of names.slice(1, -1)) {
      range = movedByKey("ArrowUp", range, 0, steps) ?? range;
      expect(range[0]).toBe(locate(name));
      expect(textAt(range[0])).toBe(name);
    }
  });

  it("say the value there", () => {
    expect(dimensionOf("lr", [0.001, 0.1], true).textAt(0.5)).toBe("0.01");
    expect(dimensionOf("depth", [8, 20], false).textAt(0.5)).toBe("14");
    expect(dimensionOf("depth", [8], false).textAt(0.7)).toBe("8");
  });
});
