import { describe, expect, it } from "vitest";
import { describeNumbers, titleOf } from "../src/lib/analyses";

describe("analyses", () => {
  it("have a title, also of a kind that only a newer service has", () => {
    expect(titleOf("layer-responses")).toBe("Layer responses");
    expect(titleOf("weight-norms")).toBe("weight norms");
  });

  it("have their numbers as text, and nothing before they have any", () => {
    expect(describeNumbers({ test_error: 8.75, loss: null })).toBe("test error 8.75, loss –");
    expect(describeNumbers(null)).toBe("");
  });
});
