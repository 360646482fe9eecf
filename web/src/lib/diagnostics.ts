/** The charts of what a training takes of the machine, and of where the time of its steps goes. */
import { type Buckets, type Line, linesOf } from "./curves";

interface Entry {
  series: string;
  label: string;
  /** A CSS variable. */
  color: string;
}

/** Title, factor from the unit of the series to that of the title, lines. */
const CHARTS: [string, number, Entry[]][] = [
  [
    "Time of a step, ms",
    1e3,
    [
      { series: "step/compute_seconds", label: "computation", color: "--residual-1" },
      { series: "step/load_seconds", label: "data loading", color: "--plain-2" },
      { series: "step/synchronize_seconds", label: "other workers", color: "--plain-3" },
    ],
  ],
  chartOf("CPU, %", 1, "machine/cpu_percent"),
  chartOf("Memory, GiB", 2 ** -30, "machine/memory_bytes"),
  chartOf("GPU, %", 1, "machine/gpu_percent"),
  chartOf("GPU memory, GiB", 2 ** -30, "machine/gpu_memory_bytes"),
  chartOf("GPU power, W", 1, "machine/gpu_power_watts"),
];

export const DIAGNOSTIC_SERIES: ReadonlySet<string> = new Set(
  CHARTS.flatMap(([, , entries]) => entries.map(({ series }) => series)),
);

function chartOf(title: string, factor: number, series: string): [string, number, Entry[]] {
  return [title, factor, [{ series, label: "all workers", color: "--residual-1" }]];
}

/** A chart for each kind of series that was reported; a wait that never occurs is left out. */
export function diagnosticCharts(found: Record<string, Buckets>): [string, Line[]][] {
  return CHARTS.map(([title, factor, entries]): [string, Line[]] => [
    title,
    entries.flatMap(({ series, label, color }) => {
      const buckets = found[series];
      if (!buckets || (entries.length > 1 && !buckets.max.some((value) => value))) return [];
      return linesOf(label, series, scaled(buckets, factor), { color, smoothing: 0 });
    }),
  ]).filter(([, lines]) => lines.length > 0);
}

function scaled(buckets: Buckets, factor: number): Buckets {
  const times = (values: (number | null)[]) =>
    values.map((value) => (value === null ? null : value * factor));
  return {
    ...buckets,
    mean: times(buckets.mean),
    min: times(buckets.min),
    max: times(buckets.max),
  };
}
