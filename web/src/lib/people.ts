/** People, quotas and the audit log as text. */
import type { Schemas } from "../api/client";

export type Quota = Schemas["QuotaView"];
export type Limit = Exclude<keyof Quota, "key">;

/** Limits of a quota, in the order of their columns. */
export const LIMITS: Record<Limit, string> = {
  jobs: "Running jobs",
  workers: "Workers",
  gpus: "GPUs",
  waiting: "Waiting jobs",
  core_hours: "Core-hours a week",
  gpu_hours: "GPU-hours a week",
  stored_bytes: "Stored bytes",
};

export const LIMIT_NAMES = Object.keys(LIMITS) as Limit[];

/** The limits that a form names; an empty field is no limit. */
export function readLimits(form: FormData): Partial<Record<Limit, number>> {
  const given = LIMIT_NAMES.map((name) => [name, String(form.get(name) ?? "").trim()] as const);
  return Object.fromEntries(
    given.filter(([, text]) => text !== "").map(([name, text]) => [name, Number(text)]),
  );
}

/** "role admin, group lab"; what is not known is left out. */
export function describeData(data: Record<string, unknown>): string {
  return Object.entries(data)
    .filter(([, value]) => value !== null && value !== undefined)
    .map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`)
    .join(", ");
}
