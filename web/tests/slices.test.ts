import { describe, expect, it } from "vitest";
import type { Schemas } from "../src/api/client";
import { pointsOf } from "../src/lib/slices";

function trial(
  number: number,
  size: number | string | null,
  changes: Partial<Schemas["TrialView"]> = {},
): Schemas["TrialView"] {
  return {
    number,
    job_id: `job-${number}`,
    job_ids: [`job-${number}`],
    state: "succeeded",
    reason: "completed",
    params: { size },
    values: { "test/error": 10 * number },
    stds: {},
    rank: number,
    iteration: 20,
    stop_reason: null,
    ...changes,
  };
}

describe("points of a slice", () => {
  it("are in the order of the field's values", () => {
    const numbers = pointsOf([trial(1, 64), trial(2, 8)], "size", "test/error");
    expect(numbers.map(({ number, text, score }) => [number, text, score])).toEqual([
      [2, "8", 20],
      [1, "64", 10],
    ]);
    const names = pointsOf([trial(1, "C"), trial(2, null), trial(3, "A")], "size", "test/error");
    expect(names.map(({ text }) => text)).toEqual(["A", "C", "null"]);
  });

  it("leave out trials without a value, and mark the best and those that were stopped", () => {
    const points = pointsOf(
      [
        trial(1, 1, { rank: 0 }),
        trial(2, 2, { stop_reason: "stopped by asha" }),
        trial(3, 3, { values: {} }),
        trial(4, 4, { params: {} }),
      ],
      "size",
      "test/error",
    );
    expect(points.map(({ number, isBest, isStopped }) => [number, isBest, isStopped])).toEqual([
      [1, true, false],
      [2, false, true],
    ]);
  });
});
