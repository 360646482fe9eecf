import { expect, it } from "vitest";
import { zoomedByKey } from "../src/lib/zoom";

it("keys zoom in, out, aside and back, never below zero", () => {
  const range = { from: 100, to: 300 };
  expect(zoomedByKey("+", range)).toEqual({ from: 150, to: 250 });
  expect(zoomedByKey("-", range)).toEqual({ from: 0, to: 400 });
  expect(zoomedByKey("ArrowRight", range)).toEqual({ from: 150, to: 350 });
  expect(zoomedByKey("ArrowLeft", { from: 20, to: 220 })).toEqual({ from: 0, to: 200 });
  expect(zoomedByKey("0", range)).toBeNull();
  expect(zoomedByKey("a", range)).toBeUndefined();
});
