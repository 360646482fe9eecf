import { describe, expect, it } from "vitest";
import { describeData, readLimits } from "../src/lib/people";

describe("limits of a form", () => {
  it("leaves out what is empty", () => {
    const form = new FormData();
    form.set("jobs", "2");
    form.set("gpus", " ");
    form.set("waiting", "0");
    expect(readLimits(form)).toEqual({ jobs: 2, waiting: 0 });
  });
});

describe("data of an audit entry", () => {
  it("names what is known", () => {
    const data = { role: "admin", group: null, address_count: 3 };
    expect(describeData(data)).toBe("role admin, address count 3");
  });
});
