import type { Buckets } from "../src/lib/curves";

/** Buckets of one point each. */
export function buckets(starts: number[], values: (number | null)[]): Buckets {
  return {
    x: starts,
    start: starts,
    iteration: starts,
    count: starts.map(() => 1),
    mean: values,
    first: values,
    min: values,
    max: values,
    last: values,
  };
}
