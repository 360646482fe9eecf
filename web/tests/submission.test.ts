import { describe, expect, it } from "vitest";
import { EMPTY_FORM, errorsByField, formOf, type Spec, specOf } from "../src/lib/submission";

describe("the form of a job", () => {
  it("sends only what was typed, as numbers where they are some", () => {
    const form = { ...EMPTY_FORM, depth: "33x", iterations: "500", tags: "a, b", priority: "7" };
    expect(specOf(form)).toEqual({
      dataset: "digits",
      depth: "33x",
      shortcut: "A",
      recipe: { iterations: 500 },
      priority: 7,
      tags: ["a", "b"],
    });
  });

  it("makes the spec again from which it was filled", () => {
    const { seed, ...spec } = {
      dataset: "digits",
      depth: 56,
      shortcut: "none",
      recipe: { name: "quick", iterations: 600, lr: 0.05 },
      resources: { num_workers: 2, cpus_per_worker: 1, gpus_per_worker: null },
      name: "a name",
      priority: 50,
      tags: ["x"],
      seed: 3,
      activation_order: "full-preactivation",
    };
    const form = formOf({ ...spec, seed } as unknown as Spec);
    expect(form.seeds).toBe("3");
    const { gpus_per_worker, ...resources } = spec.resources;
    expect(specOf(form)).toEqual({ ...spec, resources });
  });

  it("takes one number of workers or the bounds of an elastic job", () => {
    const sent = (num_workers: string) => specOf({ ...EMPTY_FORM, num_workers }).resources;
    expect(sent("2")).toEqual({ num_workers: 2 });
    expect(sent("1-8")).toEqual({ num_workers: { min: 1, max: 8 } });
    expect(sent("some")).toEqual({ num_workers: "some" });
    const resources = { num_workers: { min: 1, max: 8 }, cpus_per_worker: 1 };
    const spec = { ...specOf(EMPTY_FORM), recipe: {}, resources, tags: [], seed: 0 };
    expect(formOf(spec as unknown as Spec).num_workers).toBe("1-8");
  });

  it("shows errors at their fields, others with their path", () => {
    const errors = [
      { pointer: "/depth", message: "must be 6n+2" },
      { pointer: "/resources/num_workers", message: "too many" },
      { pointer: "/jobs/3/seed", message: "negative" },
      { pointer: "/recipe/lr", message: "too high" },
    ];
    expect(errorsByField(errors)).toEqual({
      depth: "must be 6n+2",
      num_workers: "too many",
      seeds: "negative",
      other: "/recipe/lr: too high",
    });
  });

  it("refuses further fields that are no JSON object", () => {
    for (const other of ["{", "3", "[]"])
      expect(() => specOf({ ...EMPTY_FORM, other })).toThrow(
        expect.objectContaining({ pointer: "/other" }),
      );
  });
});
