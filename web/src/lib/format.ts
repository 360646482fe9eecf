/** Numbers, times and sizes as text. */

const NONE = "–";

// Made once: a format takes much longer to make than to use, and a list has thousands of values.
const NUMBERS = [0, 1, 2].map(
  (digits) =>
    new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }),
);
const AMOUNTS = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const DAY_AND_YEAR = new Intl.DateTimeFormat("en-GB", {
  day: "numeric",
  month: "short",
  year: "numeric",
});

export function number(value: number | null | undefined, digits: 0 | 1 | 2 = 0): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  return NUMBERS[digits]?.format(value) ?? NONE;
}

/** With three significant digits, or all those before the point: "0.0028", "31.2", "1,234". */
export function amount(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  return Math.abs(value) >= 1000 ? number(value) : AMOUNTS.format(value);
}

/** With about three significant digits: a loss, a learning rate. */
export function precise(value: number | null | undefined): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(2);
  return String(Number(value.toPrecision(size >= 1000 ? 5 : 4)));
}

export function percent(value: number | null | undefined): string {
  return value === null || value === undefined ? NONE : `${number(value, 2)} %`;
}

export function count(value: number | null | undefined): string {
  if (value === null || value === undefined) return NONE;
  for (const [size, unit] of [
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ] as const)
    if (value >= size) return `${(value / size).toPrecision(3)} ${unit}`;
  return String(value);
}

export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined) return NONE;
  for (const [power, unit] of [
    [30, "GiB"],
    [20, "MiB"],
    [10, "KiB"],
  ] as const)
    if (value >= 2 ** power) return `${(value / 2 ** power).toPrecision(3)} ${unit}`;
  return `${value} B`;
}

export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return NONE;
  const total = Math.max(0, Math.round(seconds));
  if (total < 60) return `${total} s`;
  const minutes = Math.floor(total / 60);
  if (minutes < 60) return minutes < 10 ? `${minutes} min ${total % 60} s` : `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** The time of day; with the date unless it is today. */
export function time(iso: string | null | undefined, now = new Date()): string {
  if (!iso) return NONE;
  const at = new Date(iso);
  const clock = CLOCK.format(at);
  const isThisYear = at.getFullYear() === now.getFullYear();
  if (isThisYear && at.getMonth() === now.getMonth() && at.getDate() === now.getDate())
    return clock;
  return `${(isThisYear ? DAY : DAY_AND_YEAR).format(at)}, ${clock}`;
}

export function secondsBetween(from: string | null, to: string | null): number | null {
  if (!from || !to) return null;
  return (Date.parse(to) - Date.parse(from)) / 1000;
}
