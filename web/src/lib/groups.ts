/** Groups of jobs that differ in nothing but the seed, and the means of their curves. */
import type { Job, Schemas } from "../api/client";
import type { Buckets, Line, Metrics } from "./curves";
import { linesOf, smoothed } from "./curves";
import { flatten, isPlain } from "./jobs";

/** Fields that the name of the network has. */
const IN_NETWORK =
  /^(depth|family|block|stem|shortcut(_form|_scale)?|residual_scale|gate_bias|dropout_rate|activation_order|survival)$/;

export interface Group {
  label: string;
  /** A CSS variable. */
  color: string;
  jobs: Job[];
  /** Values of the fields in which the groups differ. */
  fields: Record<string, string>;
  results: ServerGroup["results"];
}

type ServerGroup = Schemas["GroupView"];

/** The groups as the API makes them, in the order of the ids, with what a page draws them with. */
export function drawGroups(
  groups: readonly ServerGroup[],
  jobs: readonly Job[],
  ids: readonly string[],
): Group[] {
  const byId = new Map(jobs.map((job) => [job.id, job]));
  const orderOf = (group: ServerGroup) => Math.min(...group.jobs.map(({ id }) => ids.indexOf(id)));
  const used = { plain: 0, residual: 0 };
  return groups
    .toSorted((left, right) => orderOf(left) - orderOf(right))
    .map((group) => {
      const members = group.jobs.flatMap(({ id }) => byId.get(id) ?? []);
      const [first] = members;
      const kind = first && isPlain(first) ? "plain" : "residual";
      const fields = flatten(group.fields);
      const varying = Object.entries(fields)
        .filter(([field, value]) => !IN_NETWORK.test(field) && value !== "null")
        .map(([field, value]) => `${field.split(".").at(-1)} ${value}`);
      return {
        label: [first?.network ?? "", ...varying.slice(0, 3)].join(", ") + sizeOf(members),
        color: `--${kind}-${(used[kind]++ % 4) + 1}`,
        jobs: members.toSorted((left, right) => left.spec.seed - right.spec.seed),
        fields,
        results: group.results,
      };
    });
}

function sizeOf(group: Job[]): string {
  return group.length > 1 ? ` (mean of ${group.length})` : "";
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
    mean: rows.map(({ values }) => average(values)),
    min: rows.map(({ values }) => Math.min(...values)),
    max: rows.map(({ values }) => Math.max(...values)),
  };
}

export function average(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
