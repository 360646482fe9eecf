/** Axes of parallel coordinates: where a value of a field is on its axis, from 0 to 1. */

export type Value = number | string | boolean | null;

export interface Dimension {
  name: string;
  /** Values at the ends of the axis, or all of them where they are no numbers. */
  labels: { at: number; text: string }[];
  /** Position of a value on the axis; null where the row has none. */
  locate: (value: Value | undefined) => number | null;
  /** The value at a position, or the nearest category. */
  textAt: (position: number) => string;
  /** Into how many steps keys divide the axis. */
  steps: number;
}

const STEPS = 20;

/** An axis of numbers, logarithmic on request, or of categories at equal distances. */
export function dimensionOf(name: string, values: readonly Value[], isLog: boolean): Dimension {
  const known = values.filter((value) => value !== null && value !== undefined);
  if (known.some((value) => typeof value !== "number")) return categories(name, known);
  const numbers = known as number[];
  const isScaled = isLog && numbers.every((value) => value > 0);
  const scale = isScaled ? Math.log : (value: number) => value;
  const low = Math.min(...numbers);
  const high = Math.max(...numbers);
  const width = scale(high) - scale(low);
  const locate = (value: Value | undefined) =>
    typeof value !== "number" ? null : width > 0 ? (scale(value) - scale(low)) / width : 0.5;
  const ends = width > 0 ? [low, high] : numbers.slice(0, 1);
  const textAt = (position: number) => {
    const scaled = width > 0 ? scale(low) + position * width : scale(low);
    return String(Number((isScaled ? Math.exp(scaled) : scaled).toPrecision(3)));
  };
  return {
    name,
    labels: ends.map((value) => ({ at: locate(value) ?? 0, text: textAt(locate(value) ?? 0) })),
    locate,
    textAt,
    steps: STEPS,
  };
}

/** An axis of categories, in their order where they are numbers. */
export function categories(name: string, values: readonly Value[]): Dimension {
  const names = [...new Set(values.map(String))].sort((left, right) =>
    left.localeCompare(right, "en", { numeric: true }),
  );
  const last = names.length - 1;
  const locate = (value: Value | undefined) => {
    const index = names.indexOf(String(value));
    return index < 0 ? null : last === 0 ? 0.5 : index / last;
  };
  return {
    name,
    labels: names.map((text) => ({ at: locate(text) ?? 0, text })),
    locate,
    textAt: (position) => names[Math.round(position * last)] ?? "",
    steps: Math.max(1, last),
  };
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

const ROUNDING = 1e-6;

/** Index of an end of a range: the lower, the upper. */
export type End = 0 | 1;

/** The range after a key at one of its ends; null: none; undefined: the key does nothing. */
export function movedByKey(
  key: string,
  range: readonly [number, number],
  end: End,
  steps: number,
): readonly [number, number] | null | undefined {
  if (key === "Escape") return null;
  const [low, high] = end === 0 ? [0, range[1]] : [range[0], 1];
  // From a position between two steps, to the next one.
  const above = (Math.floor(range[end] * steps + ROUNDING) + 1) / steps;
  const below = (Math.ceil(range[end] * steps - ROUNDING) - 1) / steps;
  const targets: Record<string, number> = {
    ArrowUp: above,
    ArrowRight: above,
    ArrowDown: below,
    ArrowLeft: below,
    Home: low,
    End: high,
  };
  const target = targets[key];
  if (target === undefined) return undefined;
  const at = Math.min(high, Math.max(low, target));
  const moved = end === 0 ? ([at, range[1]] as const) : ([range[0], at] as const);
  return moved[0] === 0 && moved[1] === 1 ? null : moved;
}
