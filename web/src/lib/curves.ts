/** Metrics in buckets: continued, smoothed, and as lines of a chart. */
import type { Schemas } from "../api/client";

export type Buckets = Schemas["BucketsView"];
export type JobMetrics = Schemas["JobMetricsView"];
export type Metrics = Schemas["BucketedMetricsView"];
export type Axis = Schemas["MetricAxis"];

export const AXES: Record<Axis, string> = {
  iteration: "Iterations",
  epoch: "Epochs",
  seconds: "Training time",
  time: "Time",
  "multiply-adds": "Multiply-adds",
};

export interface Line {
  label: string;
  /** A CSS variable. */
  color: string;
  x: number[];
  y: (number | null)[];
  dash?: number[];
  width?: number;
  /** Drawn behind, and not in the legend. */
  faint?: boolean;
  /** Drawn pale, and in the legend. */
  pale?: boolean;
  /** A circle at the last point. */
  hasEnd?: boolean;
  /** Lowest and highest value of each bucket. */
  low?: (number | null)[] | undefined;
  high?: (number | null)[] | undefined;
}

/** The test errors that jobs with other seeds let one expect, as a band around their mean. */
export function envelopeLine({ job_ids, points }: Schemas["EnvelopeView"]): Line[] {
  if (points.length === 0) return [];
  return [
    {
      label: `expected from ${job_ids.length} other seeds`,
      color: "--muted",
      x: points.map(({ iteration }) => iteration),
      y: points.map(({ mean }) => mean),
      low: points.map(({ low }) => low),
      high: points.map(({ high }) => high),
      pale: true,
    },
  ];
}

/** The earlier metrics with what a request `after` them returned. */
export function continued(before: Metrics | undefined, next: Metrics): Metrics {
  if (!before || before.x !== next.x) return next;
  const known = new Map(before.jobs.map((job) => [job.job_id, job]));
  return { ...next, jobs: next.jobs.map((job) => continuedJob(known.get(job.job_id), job)) };
}

function continuedJob(before: JobMetrics | undefined, next: JobMetrics): JobMetrics {
  if (!before || before.width !== next.width) return next;
  const series = { ...before.series };
  for (const [name, buckets] of Object.entries(next.series)) {
    const known = series[name];
    series[name] = known ? joined(known, buckets) : buckets;
  }
  return { ...next, series };
}

/** The last known bucket had begun only: the new ones replace it. */
function joined(before: Buckets, next: Buckets): Buckets {
  const start = next.start[0];
  if (start === undefined) return before;
  const kept = before.start.findIndex((known) => known >= start);
  const end = kept < 0 ? before.start.length : kept;
  return Object.fromEntries(
    Object.entries(before).map(([column, values]) => [
      column,
      [...values.slice(0, end), ...next[column as keyof Buckets]],
    ]),
  ) as unknown as Buckets;
}

/**
 * An exponential moving average without the bias of its start. `weight`: 0 to below 1, of the past.
 */
export function smoothed(values: readonly (number | null)[], weight: number): (number | null)[] {
  let sum = 0;
  let total = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return sum / total;
  });
}

/** At most `rows` indices of `length` values, evenly spaced, with the first and the last. */
export function picked(length: number, rows: number): number[] {
  if (length <= rows) return Array.from({ length }, (_, index) => index);
  return Array.from({ length: rows }, (_, row) => Math.round((row * (length - 1)) / (rows - 1)));
}

const isTraining = (series: string) => series.startsWith("train/");

/**
 * The lines of one series of a job. Training is dashed, tests are bold, as in the paper. With
 * smoothing, training has its raw values behind; tests have few points and are never smoothed.
 */
export function linesOf(
  label: string,
  series: string,
  buckets: Buckets,
  { color, smoothing }: { color: string; smoothing: number },
): Line[] {
  const isSmoothed = smoothing > 0 && isTraining(series);
  const style = isTraining(series)
    ? { dash: [5, 4], width: 1.5 }
    : { width: series.startsWith("test/") ? 2.5 : 1.5 };
  const range = buckets.count.some((count) => count > 1)
    ? { low: buckets.min, high: buckets.max }
    : {};
  const line: Line = { label, color, x: buckets.x, y: buckets.mean, ...style };
  if (!isSmoothed) return [{ ...line, ...range }];
  return [
    {
      label: `${label}, raw`,
      color,
      x: buckets.x,
      y: buckets.mean,
      width: 1,
      faint: true,
      ...range,
    },
    { ...line, y: smoothed(buckets.mean, smoothing) },
  ];
}
