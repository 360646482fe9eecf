/** Axes of parallel coordinates: where a value of a field is on its axis, from 0 to 1. */

export type Value = number | string | boolean | null;

export interface Dimension {
  name: string;
  /** Values at the ends of the axis, or all of them where they are no numbers. */
  labels: { at: number; text: string }[];
  /** Position of a value on the axis; null where the row has none. */
  locate: (value: Value | undefined) => number | null;
}

/** An axis of numbers, logarithmic on request, or of categories at equal distances. */
export function dimensionOf(name: string, values: readonly Value[], isLog: boolean): Dimension {
  const known = values.filter((value) => value !== null && value !== undefined);
  if (known.some((value) => typeof value !== "number")) return categories(name, known);
  const numbers = known as number[];
  const scale = isLog && numbers.every((value) => value > 0) ? Math.log : (value: number) => value;
  const low = Math.min(...numbers);
  const high = Math.max(...numbers);
  const width = scale(high) - scale(low);
  const locate = (value: Value | undefined) =>
    typeof value !== "number" ? null : width > 0 ? (scale(value) - scale(low)) / width : 0.5;
  const ends = width > 0 ? [low, high] : numbers.slice(0, 1);
  return {
    name,
    labels: ends.map((value) => ({
      at: locate(value) ?? 0,
      text: String(Number(value.toPrecision(3))),
    })),
    locate,
  };
}

function categories(name: string, values: readonly Value[]): Dimension {
  const names = [...new Set(values.map(String))].sort();
  const locate = (value: Value | undefined) => {
    const index = names.indexOf(String(value));
    return index < 0 ? null : names.length === 1 ? 0.5 : index / (names.length - 1);
  };
  return { name, labels: names.map((text) => ({ at: locate(text) ?? 0, text })), locate };
}

/** Ranges chosen on axes, by the name of the field. */
export type Brushes = Readonly<Record<string, readonly [number, number]>>;

/** Whether all of a row's values are in the ranges chosen on their axes. */
export function isBrushed(
  row: Readonly<Record<string, Value>>,
  dimensions: readonly Dimension[],
  brushes: Brushes,
): boolean {
  return dimensions.every(({ name, locate }) => {
    const range = brushes[name];
    if (!range) return true;
    const at = locate(row[name]);
    return at !== null && at >= range[0] && at <= range[1];
  });
}
