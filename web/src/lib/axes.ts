/** How the positions on a chart's x axis are written. */
import type { Axis } from "./curves";
import { count, duration, number, precise } from "./format";

export function formatOf(axis: Axis): (value: number) => string {
  if (axis === "iteration") return (value) => number(value);
  if (axis === "seconds") return duration;
  if (axis === "multiply-adds") return count;
  if (axis === "time")
    return (value) =>
      new Date(value * 1000).toLocaleTimeString("en-GB", {
        hour: "2-digit",
        minute: "2-digit",
        second: "2-digit",
      });
  return precise;
}
