import { describe, expect, it } from "vitest";
import { visibleRows } from "../src/lib/virtual";

describe("visible rows", () => {
  it("are all rows of a short table", () => {
    expect(visibleRows(50, 0, 800)).toEqual({ first: 0, end: 50 });
  });

  it("are a window of a long table, at each position", () => {
    for (const first of [0, 500, 9_990, 20_000]) {
      const shown = visibleRows(10_000, first, 800);
      expect(shown.end - shown.first).toBeLessThan(100);
      expect(shown.first).toBeLessThanOrEqual(Math.min(first, 9_999));
      expect(shown.end).toBeGreaterThan(Math.min(first, 9_999));
    }
  });
});
