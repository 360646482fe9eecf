import { describe, expect, it } from "vitest";
import { cutAfter, inheritedOf, type LineageJob, treeOf } from "../src/lib/lineage";
import { buckets } from "./buckets";

function job(
  id: string,
  from?: string,
  mode: "continue" | "weights" = "continue",
  iteration = 20,
): LineageJob {
  const source = from ? { job_id: from, iteration, mode } : null;
  return { id, name: id, state: "succeeded", source };
}

describe("the tree of jobs", () => {
  it("has each job below the one that it started from", () => {
    const jobs = [job("a"), job("b", "a"), job("c", "a"), job("d", "b")];
    expect(treeOf(jobs).map(({ job, depth }) => [job.id, depth])).toEqual([
      ["a", 0],
      ["b", 1],
      ["d", 2],
      ["c", 1],
    ]);
  });

  it("begins with a job whose source was deleted", () => {
    expect(treeOf([job("b", "deleted"), job("c", "b")]).map(({ depth }) => depth)).toEqual([0, 1]);
  });
});

describe("the inherited curve", () => {
  const jobs = [job("a"), job("b", "a", "weights"), job("c", "b", "continue", 40), job("d", "c")];

  it("is that of the jobs whose run is continued, up to their checkpoints", () => {
    const found = inheritedOf(jobs, "d").map(({ job, until }) => [job.id, until]);
    expect(found).toEqual([
      ["c", 20],
      ["b", 40],
    ]);
    expect(inheritedOf(jobs, "b")).toEqual([]);
    expect(inheritedOf([job("d", "deleted")], "d")).toEqual([]);
  });

  it("ends at the checkpoint", () => {
    expect(cutAfter(buckets([10, 20, 30], [3, 2, 1]), 20)).toEqual(buckets([10, 20], [3, 2]));
    expect(cutAfter(buckets([10], [3]), 5)).toEqual(buckets([], []));
  });
});
