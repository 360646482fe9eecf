import { describe, expect, it } from "vitest";
import { spansOf } from "../src/lib/events";

type Attempt = Parameters<typeof spansOf>[2][number];

const at = (second: number) => new Date(second * 1000).toISOString();

function attempt(number: number, created: number, step: number | null, ended: number | null) {
  return {
    number,
    num_workers: number,
    first_iteration: 40 * (number - 1),
    last_iteration: ended === null ? null : 40 * number,
    created_at: at(created),
    started_at: null,
    first_step_at: step === null ? null : at(step),
    ended_at: ended === null ? null : at(ended),
    reason: ended === null ? null : "node-lost",
  } as unknown as Attempt;
}

const kinds = (spans: ReturnType<typeof spansOf>) =>
  spans.map(({ kind, from, to }) => [kind, from / 1000, to / 1000]);

describe("spans of a job", () => {
  it("alternate between waiting, starting and training until now", () => {
    const spans = spansOf(at(0), null, [attempt(1, 5, 8, 20), attempt(2, 30, 31, null)], 40_000);
    expect(kinds(spans)).toEqual([
      ["wait", 0, 5],
      ["start", 5, 8],
      ["train", 8, 20],
      ["wait", 20, 30],
      ["start", 30, 31],
      ["train", 31, 40],
    ]);
    expect(spans[2]?.label).toBe(
      "attempt 1 with 1 worker: training from iteration 0 to 40, then node-lost",
    );
    expect(spans[5]?.label).toBe("attempt 2 with 2 workers: training");
  });

  it("are a single wait before the first attempt", () => {
    expect(kinds(spansOf(at(0), null, [], 9_000))).toEqual([["wait", 0, 9]]);
  });
});
