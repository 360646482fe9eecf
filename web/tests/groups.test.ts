import { describe, expect, it } from "vitest";
import type { Job, Schemas } from "../src/api/client";
import { drawGroups, meanOf } from "../src/lib/groups";
import { buckets } from "./buckets";

function job(id: string, network: string, seed: number): Job {
  const shortcut = network.startsWith("plain") ? "none" : "A";
  return { id, network, spec: { seed, shortcut } } as unknown as Job;
}

function group(ids: string[], fields: object) {
  const jobs = ids.map((id) => ({ id }));
  return { jobs, fields, results: {}, series: {} } as unknown as Schemas["GroupView"];
}

describe("groups", () => {
  const jobs = [
    job("a", "resnet-20-A", 0),
    job("b", "plain-20", 1),
    job("c", "plain-20", 0),
    job("d", "resnet-20-A", 0),
  ];
  const groups = drawGroups(
    [
      group(["a"], { shortcut: "A", "recipe.learning_rate": 0.2, depth: 20 }),
      group(["b", "c"], { shortcut: "none", "recipe.learning_rate": null, depth: 20 }),
      group(["d"], { shortcut: "A", "recipe.learning_rate": 0.1, depth: 20 }),
    ],
    jobs,
    ["c", "a", "b", "d"],
  );

  it("are in the order of the ids, their jobs in that of the seeds", () => {
    expect(groups.map((drawn) => drawn.jobs.map(({ id }) => id))).toEqual([
      ["c", "b"],
      ["a"],
      ["d"],
    ]);
  });

  it("have the colors of their kind of network", () => {
    expect(groups.map((drawn) => drawn.color)).toEqual([
      "--plain-1",
      "--residual-1",
      "--residual-2",
    ]);
  });

  it("are named by what the network's name does not say", () => {
    expect(groups.map((drawn) => drawn.label)).toEqual([
      "plain-20 (mean of 2)",
      "resnet-20-A, learning_rate 0.2",
      "resnet-20-A, learning_rate 0.1",
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
});
