import { describe, expect, it } from "vitest";
import type { Job } from "../src/api/client";
import { groupJobs, meanOf, statistics } from "../src/lib/groups";
import { buckets } from "./buckets";

function job(id: string, network: string, spec: object): Job {
  const shortcut = network.startsWith("plain") ? "none" : "A";
  return { id, network, spec: { seed: 0, shortcut, name: id, ...spec } } as unknown as Job;
}

describe("groups", () => {
  const jobs = [
    job("a", "plain-20", { depth: 20, seed: 0 }),
    job("b", "plain-20", { depth: 20, seed: 1, tags: ["x"] }),
    job("c", "resnet-20-A", { depth: 20, recipe: { lr: 0.2 } }),
  ];

  it("join jobs that differ in the seed only, with their family's color", () => {
    const groups = groupJobs(jobs, false);
    expect(groups.map((group) => group.jobs.map(({ id }) => id))).toEqual([["a", "b"], ["c"]]);
    expect(groups.map((group) => group.color)).toEqual(["--plain-1", "--residual-1"]);
    expect(groups.map((group) => group.label)).toEqual([
      "plain-20 (mean of 2)",
      "resnet-20-A, lr 0.2",
    ]);
  });

  it("are single jobs on request, whose labels have the seed", () => {
    expect(groupJobs(jobs, true).map((group) => group.label)).toEqual([
      "plain-20, seed 0",
      "plain-20, seed 1",
      "resnet-20-A, seed 0, lr 0.2",
    ]);
  });
});

describe("the mean of a group", () => {
  it("is taken where all members have a value, with their range", () => {
    const mean = meanOf([buckets([0, 4, 8], [1, 2, 3]), buckets([0, 8, 12], [3, 5, 7])]);
    expect(mean).toMatchObject({ start: [0, 8], mean: [2, 4], min: [1, 3], max: [3, 5] });
  });

  it("leaves out what was not finite in one of them", () => {
    expect(meanOf([buckets([0, 4], [1, null]), buckets([0, 4], [3, 5])])?.mean).toEqual([2]);
  });

  it("has the deviation of a sample", () => {
    expect(statistics([1, 3])).toEqual({ mean: 2, deviation: Math.SQRT2 });
    expect(statistics([1]).deviation).toBeNull();
  });
});
