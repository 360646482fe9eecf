import { describe, expect, it } from "vitest";
import { differences, parseSeeds, sorted } from "../src/lib/jobs";

describe("seeds", () => {
  it("are numbers and ranges, each once", () => {
    expect(parseSeeds("0-3, 7,2")).toEqual([0, 1, 2, 3, 7]);
  });

  it.each(["", "a", "3-1", "0-100000", "-1", "1,"])("are refused: %j", (text) => {
    expect(parseSeeds(text)).toBeNull();
  });
});

describe("sorted", () => {
  it("puts rows without a value last, in both directions", () => {
    const rows = [3, null, 1];
    expect(sorted(rows, (row) => row, false)).toEqual([1, 3, null]);
    expect(sorted(rows, (row) => row, true)).toEqual([3, 1, null]);
  });

  it("orders numbers in names as numbers", () => {
    expect(sorted(["net-110", "net-20"], (row) => row, false)).toEqual(["net-20", "net-110"]);
  });
});

describe("differences", () => {
  it("are the fields that are not equal in all specs, by their path", () => {
    const specs = [
      { depth: 20, recipe: { lr: 0.1, name: "quick" }, tags: ["a"] },
      { depth: 20, recipe: { lr: 0.2, name: "quick" }, tags: ["a"] },
      { depth: 20, recipe: { name: "quick" }, tags: ["b"] },
    ];
    expect(differences(specs)).toEqual([
      { field: "recipe.lr", values: ["0.1", "0.2", ""] },
      { field: "tags", values: ['["a"]', '["a"]', '["b"]'] },
    ]);
  });
});
