import { expect, it } from "vitest";
import { addressOfModel, describeSource, modelOf } from "../src/lib/models";

it("a name of a checkpoint leads to the page of its model", () => {
  expect(addressOfModel(modelOf("resnet-56/course@production"))).toBe("/models/resnet-56/course");
});

it("what a training began with is a sentence", () => {
  const source = {
    job: "06cftqknqj1h2fwy",
    checkpoint: "06cftqknqj1h2fwz",
    iteration: 1000,
    weights: null,
    mode: "fine-tune",
  } as const;
  expect(describeSource(null)).toBe("new weights");
  expect(describeSource(source)).toBe("with the weights, other classes, from iteration 1,000 of");
  const file = { ...source, job: null, iteration: null, weights: "resnet50.pth" };
  expect(describeSource(file)).toBe("with the weights, other classes, from resnet50.pth");
});
