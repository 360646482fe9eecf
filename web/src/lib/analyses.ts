/** Analyses of checkpoints as text. */
import type { Job, Schemas } from "../api/client";
import { precise } from "./format";

export type AnalysisJob = Schemas["AnalysisJobView"];

/** Kinds that need no parameter, with what they show. */
export const KINDS: readonly [string, string][] = [
  ["evaluation", "Another test"],
  ["layer-responses", "Layer responses"],
  ["lesion", "Errors without parts of the network"],
  ["path-gradients", "Gradients by length of path"],
  ["loss-landscape", "Loss landscape"],
  ["trajectory", "Trajectory of the checkpoints"],
  ["layer-statistics", "Gradients and batch norm by layer"],
];

export function isAnalysis(job: Pick<Job, "kind">): boolean {
  return job.kind !== "training";
}

export function titleOf(kind: string): string {
  return KINDS.find(([known]) => known === kind)?.[1] ?? kind.replaceAll("-", " ");
}

/** "test error 8.75, images 10000" */
export function describeNumbers(numbers: Record<string, number | null> | null): string {
  return Object.entries(numbers ?? {})
    .map(([name, value]) => `${name.replaceAll("_", " ")} ${precise(value)}`)
    .join(", ");
}
