import { describe, expect, it } from "vitest";
import {
  type Buckets,
  continued,
  linesOf,
  type Metrics,
  picked,
  smoothed,
} from "../src/lib/curves";
import { buckets } from "./buckets";

function metrics(width: number, found: Buckets): Metrics {
  return {
    x: "iteration",
    next: "",
    jobs: [{ job_id: "a", width, series: { "train/loss": found } }],
  };
}

const meanOf = (found: Metrics) => found.jobs[0]?.series["train/loss"]?.mean;

describe("continued metrics", () => {
  it("replace the bucket that had begun and append the rest", () => {
    const before = metrics(4, buckets([0, 4, 8], [3, 2, 1]));
    const next = metrics(4, buckets([8, 12], [0.5, 0.25]));
    expect(meanOf(continued(before, next))).toEqual([3, 2, 0.5, 0.25]);
  });

  it("stay as they were where nothing came", () => {
    const before = metrics(4, buckets([0, 4], [3, 2]));
    expect(meanOf(continued(before, metrics(4, buckets([], []))))).toEqual([3, 2]);
  });

  it("are replaced by wider buckets", () => {
    const before = metrics(4, buckets([0, 4], [3, 2]));
    expect(meanOf(continued(before, metrics(8, buckets([0], [2.5]))))).toEqual([2.5]);
  });
});

describe("smoothing", () => {
  it("keeps a constant, skips gaps, and has no bias at its start", () => {
    expect(smoothed([2, null, 2], 0.9)).toEqual([2, null, 2]);
    expect(smoothed([4, 0], 0.5)[0]).toBe(4);
  });

  it("leaves the raw values of training behind, and tests as they are", () => {
    const style = { color: "--plain", smoothing: 0.9 };
    const train = linesOf("train", "train/loss", buckets([0, 1], [4, 0]), style);
    expect(train.map((line) => Boolean(line.faint))).toEqual([true, false]);
    expect(train[1]?.dash).toBeDefined();
    const [test, ...more] = linesOf("test", "test/loss", buckets([0, 1], [4, 0]), style);
    expect([test?.y, test?.dash, more]).toEqual([[4, 0], undefined, []]);
  });
});

describe("picked rows", () => {
  it("are evenly spaced with the first and the last", () => {
    expect(picked(101, 3)).toEqual([0, 50, 100]);
    expect(picked(2, 3)).toEqual([0, 1]);
  });
});
