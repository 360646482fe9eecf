import { describe, expect, it } from "vitest";
import { amount, bytes, count, duration, percent, precise, time } from "../src/lib/format";

describe("format", () => {
  it("gives durations the two units that matter", () => {
    expect([5, 65, 3600, 90061, 200000].map(duration)).toEqual([
      "5 s",
      "1 min 5 s",
      "1 h 0 min",
      "25 h 1 min",
      "2 d 7 h",
    ]);
  });

  it("scales counts and sizes", () => {
    expect([999, 269722, 41e6].map(count)).toEqual(["999", "270 k", "41.0 M"]);
    expect(bytes(3 * 2 ** 20)).toBe("3.00 MiB");
  });

  it("keeps the significant digits of small and large values", () => {
    expect([0.012345, 12345.6, 0.00001, 0].map(precise)).toEqual([
      "0.01235",
      "12346",
      "1.00e-5",
      "0",
    ]);
  });

  it("shows amounts of any size without an exponent", () => {
    expect([0, 1 / 3600, 0.5, 31.25, 1234.5].map(amount)).toEqual([
      "0",
      "0.000278",
      "0.5",
      "31.3",
      "1,235",
    ]);
  });

  it("shows a dash where there is no value", () => {
    expect([percent(null), duration(undefined), precise(Number.NaN), time(null)]).toEqual(
      Array(4).fill("–"),
    );
  });

  it("adds the date to a time of another day", () => {
    const now = new Date("2026-11-26T12:00:00");
    expect(time("2026-11-26T09:05:00", now)).toBe("09:05");
    expect(time("2025-01-02T09:05:00", now)).toBe("2 Jan 2025, 09:05");
  });
});
