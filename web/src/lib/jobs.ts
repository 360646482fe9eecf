/** Values of a job as lists and comparisons show and sort them. */
import type { Job } from "../api/client";

/** What the lists of jobs show, which is a fifth of the bytes of complete jobs. */
export type ListedJob = Pick<
  Job,
  | "id"
  | "name"
  | "kind"
  | "network"
  | "state"
  | "starred"
  | "archived"
  | "user"
  | "created_at"
  | "started_at"
  | "finished_at"
  | "parameters"
  | "progress"
> & {
  result: Errors;
  spec: Pick<Job["spec"], "dataset" | "seed" | "tags"> & { recipe: { name: string } };
};
type Errors = Pick<NonNullable<Job["result"]>, "test_error" | "train_error"> | null;

export const LISTED_FIELDS = [
  ...["id", "name", "kind", "network", "state", "starred", "archived", "user"],
  ...["created_at", "started_at", "finished_at", "parameters", "progress"],
  ...["result.test_error", "result.train_error"],
  ...["spec.dataset", "spec.seed", "spec.tags", "spec.recipe.name"],
].join();

export const RUNNING = ["starting", "running"] as const;
export const WAITING = ["queued", "blocked", "held", "paused"] as const;
export const FINISHED = ["succeeded", "failed", "cancelled"] as const;

export function isFinished(job: Pick<Job, "state">): boolean {
  return (FINISHED as readonly string[]).includes(job.state);
}

export function isPlain(job: Job): boolean {
  return job.spec.shortcut === "none";
}

interface Evaluated {
  result: Errors;
  progress: Job["progress"];
}

export function testError(job: Evaluated): number | null {
  return job.result?.test_error ?? job.progress?.metrics["test/error"] ?? null;
}

export function trainError(job: Evaluated): number | null {
  return job.result?.train_error ?? job.progress?.metrics["train/error"] ?? null;
}

/** The fields of an object by their dotted path; a list is one value. */
export function flatten(value: unknown, prefix = ""): Record<string, string> {
  const found: Record<string, string> = {};
  for (const [name, item] of Object.entries(value as object)) {
    const path = prefix + name;
    if (item !== null && typeof item === "object" && !Array.isArray(item))
      Object.assign(found, flatten(item, `${path}.`));
    else found[path] = typeof item === "string" ? item : JSON.stringify(item);
  }
  return found;
}

/** "0-3, 7" as [0, 1, 2, 3, 7]; null where it is not a list of seeds. */
export function parseSeeds(text: string): number[] | null {
  const seeds = new Set<number>();
  for (const part of text.split(",")) {
    const match = /^\s*(\d{1,9})(?:\s*-\s*(\d{1,9}))?\s*$/.exec(part);
    if (!match) return null;
    const first = Number(match[1]);
    const last = Number(match[2] ?? match[1]);
    if (last < first || last - first >= 1000) return null;
    for (let seed = first; seed <= last; seed++) seeds.add(seed);
  }
  return [...seeds];
}

// Made once: `localeCompare` would make it for each pair of rows.
const COLLATOR = new Intl.Collator("en", { numeric: true });

/** Sorted by a value of each row; rows without a value come last, in both directions. */
export function sorted<T>(
  rows: readonly T[],
  keyOf: (row: T) => number | string | null,
  descending: boolean,
): T[] {
  const sign = descending ? -1 : 1;
  return [...rows].sort((left, right) => {
    const [a, b] = [keyOf(left), keyOf(right)];
    if (a === null || b === null) return Number(a === null) - Number(b === null);
    if (typeof a === "string") return sign * COLLATOR.compare(a, String(b));
    return sign * (a - Number(b));
  });
}
