/** The columns of the lists of jobs. */
import type { Schemas } from "../api/client";
import { isAnalysis } from "../lib/analyses";
import { amount, count, duration, number, percent, secondsBetween, time } from "../lib/format";
import { type ListedJob, testError, trainError } from "../lib/jobs";
import { State } from "./state";
import type { Column } from "./table";

/** `value`: what rows are sorted by; `field`: the same as the API sorts by it, where it does. */
export type JobColumn = Column<ListedJob> & {
  value?: (job: ListedJob) => number | string | null;
  field?: string;
};

export const NAME: JobColumn = {
  id: "name",
  field: "name",
  title: "Name",
  clip: true,
  value: (job) => job.name,
  cell: (job) => (
    <a class="row" href={`/jobs/${job.id}`}>
      {job.starred && <span title="starred">★ </span>}
      {job.name}
      {isAnalysis(job) && <span class="muted"> {job.kind}</span>}
    </a>
  ),
};
export const STATE: JobColumn = {
  id: "state",
  field: "state",
  title: "State",
  value: (job) => job.state,
  cell: (job) => <State state={job.state} />,
};
export const NETWORK: JobColumn = {
  id: "network",
  title: "Network",
  value: (job) => job.network,
  cell: (job) => job.network,
  wide: true,
};
export const ERRORS: JobColumn[] = [
  {
    id: "test",
    field: "result.test_error",
    title: "Test error",
    number: true,
    value: testError,
    cell: (job) => percent(testError(job)),
  },
  {
    id: "train",
    field: "result.train_error",
    title: "Train error",
    number: true,
    wide: true,
    value: trainError,
    cell: (job) => percent(trainError(job)),
  },
];
/** Columns that can be added or removed; those that are shown by default first. */
export const OPTIONAL_COLUMNS: JobColumn[] = [
  {
    id: "dataset",
    field: "dataset",
    wide: true,
    title: "Dataset",
    value: (job) => job.spec.dataset,
    cell: (job) => job.spec.dataset,
  },
  {
    id: "seed",
    field: "seed",
    wide: true,
    title: "Seed",
    number: true,
    value: (job) => job.spec.seed,
    cell: (job) => job.spec.seed,
  },
  { id: "kind", field: "kind", title: "Kind", value: (job) => job.kind, cell: (job) => job.kind },
  { id: "recipe", field: "recipe.name", title: "Recipe", value: recipeOf, cell: recipeOf },
  { id: "user", field: "user", title: "User", value: (job) => job.user, cell: (job) => job.user },
  {
    id: "tags",
    wide: true,
    title: "Tags",
    clip: true,
    value: (job) => job.spec.tags.join(", ") || null,
    cell: (job) => job.spec.tags.join(", "),
  },
  {
    id: "parameters",
    wide: true,
    title: "Parameters",
    number: true,
    value: (job) => job.parameters,
    cell: (job) => count(job.parameters),
  },
  {
    id: "submitted",
    field: "created_at",
    wide: true,
    title: "Submitted",
    value: (job) => job.created_at,
    cell: (job) => time(job.created_at),
  },
];
export const DEFAULT_COLUMNS = ["dataset", "seed"];

export const RUNNING_COLUMNS: JobColumn[] = [
  {
    id: "progress",
    title: "Progress",
    cell: (job) => {
      const progress = job.progress;
      if (!progress) return <span class="muted">starting</span>;
      return (
        <>
          <progress value={progress.percent} max={100} aria-label={`${job.name}: progress`} />{" "}
          {number(progress.percent)} %
        </>
      );
    },
  },
  {
    id: "eta",
    title: "Remaining",
    number: true,
    cell: (job) => duration(job.progress?.eta_seconds),
  },
  {
    id: "speed",
    title: "Images/s",
    number: true,
    wide: true,
    cell: (job) => amount(job.progress?.images_per_second),
  },
];
export const FINISHED_COLUMNS: JobColumn[] = [
  {
    id: "time",
    title: "Duration",
    number: true,
    wide: true,
    value: (job) => secondsBetween(job.started_at, job.finished_at),
    cell: (job) => duration(secondsBetween(job.started_at, job.finished_at)),
  },
  {
    id: "finished",
    field: "finished_at",
    title: "Finished",
    wide: true,
    value: (job) => job.finished_at,
    cell: (job) => time(job.finished_at),
  },
];

function recipeOf(job: ListedJob): string {
  return job.spec.recipe.name;
}

export function waitingColumns(reasons: Map<string, Schemas["QueueStatusView"]>): JobColumn[] {
  return [
    {
      id: "position",
      title: "Position",
      cell: (job) => reasons.get(job.id)?.position ?? "–",
    },
    NAME,
    {
      id: "start",
      title: "Starts",
      cell: (job) => {
        const starts = reasons.get(job.id)?.starts_p50;
        return starts ? `about ${time(starts)}` : <span class="muted">not known</span>;
      },
    },
    {
      id: "reason",
      title: "Reason",
      cell: (job) => (
        <span title={reasons.get(job.id)?.message}>{reasons.get(job.id)?.message}</span>
      ),
      clip: true,
    },
  ];
}
