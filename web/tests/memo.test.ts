import { describe, expect, it } from "vitest";
import { hasEqualValues } from "../src/lib/memo";

describe("properties of a component", () => {
  const row = { id: "a" };

  it("are equal when each value is the same object", () => {
    expect(hasEqualValues({ row, index: 1 }, { row, index: 1 })).toBe(true);
    expect(hasEqualValues({ row }, { row: { ...row } })).toBe(false);
  });

  it("differ when one is added, is left out or changes", () => {
    expect(hasEqualValues({ row }, { row, isSelected: false })).toBe(false);
    expect(hasEqualValues({ row, isSelected: undefined }, { row, index: 1 })).toBe(false);
    expect(hasEqualValues({ isSelected: true }, { isSelected: false })).toBe(false);
  });
});
