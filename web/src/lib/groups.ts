/** Jobs that differ in nothing but the seed, and the means over them. */
import type { Job } from "../api/client";
import type { Buckets, Line, Metrics } from "./curves";
import { linesOf, smoothed } from "./curves";
import { differences, flatten, isPlain } from "./jobs";

/** Fields of a spec that do not change what is trained. */
const LABELS = new Set([
  "name",
  "tags",
  "priority",
  "hold",
  "preemptible",
  "max_restarts",
  "time_limit_minutes",
  "after",
]);
/** Fields that the name of the network has. */
const IN_NETWORK = /^(depth|shortcut|family|block|stem|preactivation)$/;

export interface Group {
  label: string;
  /** A CSS variable. */
  color: string;
  jobs: Job[];
  spec: Record<string, string>;
}

/** By everything but the seed, in the order of the jobs; or a group for each job. */
export function groupJobs(jobs: readonly Job[], byJob: boolean): Group[] {
  const groups = new Map<string, Job[]>();
  for (const job of jobs) {
    const key = byJob ? job.id : JSON.stringify(trainedSpec(job, false));
    groups.set(key, [...(groups.get(key) ?? []), job]);
  }
  const members = [...groups.values()];
  const specs = members.map(([first]) => (first ? trainedSpec(first, byJob) : {}));
  const varying = differences(specs).filter(({ field }) => !IN_NETWORK.test(field));
  const used = { plain: 0, residual: 0 };
  return members.map((group, index) => {
    const [first] = group;
    const kind = first && isPlain(first) ? "plain" : "residual";
    const fields = varying
      .filter(({ values }) => values[index] !== "")
      .map(({ field, values }) => `${field.split(".").at(-1)} ${values[index]}`);
    return {
      label: [first?.network ?? "", ...fields.slice(0, 3)].join(", ") + sizeOf(group),
      color: `--${kind}-${(used[kind]++ % 4) + 1}`,
      jobs: group.toSorted((left, right) => left.spec.seed - right.spec.seed),
      spec: specs[index] ?? {},
    };
  });
}

function sizeOf(group: Job[]): string {
  return group.length > 1 ? ` (mean of ${group.length})` : "";
}

function trainedSpec(job: Job, withSeed: boolean): Record<string, string> {
  const fields = Object.entries(flatten(job.spec)).filter(
    ([field]) =>
      !LABELS.has(field) && !field.startsWith("retention.") && (withSeed || field !== "seed"),
  );
  return Object.fromEntries(fields);
}

/** The lines of the series of a group: of its job, or the mean of several with their range. */
export function groupLines(
  group: Group,
  series: readonly string[],
  metrics: Metrics,
  smoothing: number,
): Line[] {
  const ids = new Set(group.jobs.map((job) => job.id));
  const members = metrics.jobs.filter((job) => ids.has(job.job_id));
  return series.flatMap((name): Line[] => {
    const found = members.flatMap(({ series: all }) => all[name] ?? []);
    const label = `${group.label} ${name.split("/")[0]}`;
    const mean = meanOf(found);
    // Without the raw values, which would hide the lines of others.
    const line = mean && linesOf(label, name, mean, { color: group.color, smoothing }).at(-1);
    if (!line) return [];
    if (found.length < 2) return [{ ...line, low: undefined, high: undefined }];
    const weight = line.y === mean.mean ? 0 : smoothing;
    return [{ ...line, low: smoothed(mean.min, weight), high: smoothed(mean.max, weight) }];
  });
}

/** The mean at the iterations that all have; its range is that of the members' values. */
export function meanOf(members: readonly Buckets[]): Buckets | null {
  const [first, ...others] = members;
  if (!first || others.length === 0) return first ?? null;
  const positions = others.map((other) => new Map(other.start.map((start, i) => [start, i])));
  const rows = first.start.flatMap((start, index) => {
    const indices = positions.map((position) => position.get(start));
    if (indices.includes(undefined)) return [];
    const values = [
      first.mean[index],
      ...others.map((other, i) => other.mean[indices[i] ?? -1]),
    ].filter((value): value is number => typeof value === "number");
    return values.length === members.length ? [{ index, values }] : [];
  });
  const at = <T>(values: T[]) => rows.map(({ index }) => values[index] as T);
  return {
    ...first,
    x: at(first.x),
    start: at(first.start),
    iteration: at(first.iteration),
    // More than one value, which gives the line its band.
    count: rows.map(() => members.length),
    mean: rows.map(({ values }) => statistics(values).mean),
    min: rows.map(({ values }) => Math.min(...values)),
    max: rows.map(({ values }) => Math.max(...values)),
  };
}

/** `deviation`: of the sample; null for a single value. */
export function statistics(values: readonly number[]): { mean: number; deviation: number | null } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  if (values.length < 2) return { mean, deviation: null };
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, deviation: Math.sqrt(squares / (values.length - 1)) };
}
