import { expect, test } from "vitest";
import { spread, verdictOf } from "../src/lib/study";

test("a mean has its standard deviation with several seeds only", () => {
  expect(spread({ mean: 8.754, std: 0.159 })).toBe("8.75 ± 0.16");
  expect(spread({ mean: 8.754, std: null })).toBe("8.75");
  expect(spread({ value: 7.93 })).toBe("7.93");
  expect(spread(null)).toBe("");
});

test("a verdict has the difference where both can be compared", () => {
  const cell = { statistics: null, paper: null };
  expect(verdictOf({ ...cell, verdict: "reproduced", difference: 0.25 })).toBe("reproduced, +0.25");
  expect(verdictOf({ ...cell, verdict: "lower", difference: -0.7 })).toBe("lower, -0.70");
  expect(verdictOf({ ...cell, verdict: "not-comparable", difference: null })).toBe(
    "not comparable",
  );
  expect(verdictOf({ ...cell, verdict: null, difference: null })).toBe("");
});
