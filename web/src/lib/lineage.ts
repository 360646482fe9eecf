/** The tree of jobs that started from each other's checkpoints, and the curves that they continue. */
import type { Schemas } from "../api/client";
import type { Buckets } from "./curves";

export type LineageJob = Schemas["LineageJobView"];
type StartMode = Schemas["StartMode"];

export const MODES: Record<StartMode, string> = {
  continue: "continues",
  weights: "with the weights",
  "fine-tune": "with the weights, other classes",
  deepen: "deepened",
};

export interface TreeRow {
  job: LineageJob;
  depth: number;
}

/** Each job below the one that it started from. `jobs`: sources come before what started from them. */
export function treeOf(jobs: readonly LineageJob[]): TreeRow[] {
  const known = new Set(jobs.map((job) => job.id));
  const sourceOf = ({ source }: LineageJob) =>
    source && known.has(source.job_id) ? source.job_id : null;
  const rowsBelow = (id: string | null, depth: number): TreeRow[] =>
    jobs
      .filter((job) => sourceOf(job) === id)
      .flatMap((job) => [{ job, depth }, ...rowsBelow(job.id, depth + 1)]);
  return rowsBelow(null, 0);
}

export interface Inherited {
  job: LineageJob;
  /** The iteration of the checkpoint from which its run was continued. */
  until: number;
}

/** The jobs whose run the job continues, the nearest first. */
export function inheritedOf(jobs: readonly LineageJob[], id: string): Inherited[] {
  const byId = new Map(jobs.map((job) => [job.id, job]));
  const found: Inherited[] = [];
  let source = byId.get(id)?.source;
  while (source?.mode === "continue") {
    const job = byId.get(source.job_id);
    if (!job) break;
    found.push({ job, until: source.iteration });
    source = job.source;
  }
  return found;
}

/** The buckets that end at this iteration or before. */
export function cutAfter(buckets: Buckets, iteration: number): Buckets {
  const length = buckets.iteration.findLastIndex((at) => at <= iteration) + 1;
  return Object.fromEntries(
    Object.entries(buckets).map(([column, values]) => [column, values.slice(0, length)]),
  ) as unknown as Buckets;
}
