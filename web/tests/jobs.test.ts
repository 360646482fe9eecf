import { describe, expect, it } from "vitest";
import { parseSeeds, sorted } from "../src/lib/jobs";

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
