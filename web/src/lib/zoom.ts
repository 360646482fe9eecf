/** The range of the x axis that charts show. */

export interface Range {
  from: number;
  to: number;
}

/** What a key makes of a range: + its middle half, arrows its neighbor, 0 everything (null). */
export function zoomedByKey(key: string, { from, to }: Range): Range | null | undefined {
  const quarter = (to - from) / 4;
  if (key === "+" || key === "=") return { from: from + quarter, to: to - quarter };
  if (key === "-") return { from: Math.max(0, from - 2 * quarter), to: to + 2 * quarter };
  if (key === "0") return null;
  const step =
    key === "ArrowRight" ? quarter : key === "ArrowLeft" ? -Math.min(quarter, from) : null;
  return step === null ? undefined : { from: from + step, to: to + step };
}
