/** The number of workers of a job, or the bounds of an elastic one. */
import type { Schemas } from "../api/client";

type Workers = Schemas["Resources"]["num_workers"];

export function formatWorkers(workers: Workers): string {
  return typeof workers === "number" ? String(workers) : `${workers.min}-${workers.max}`;
}

/** Text of another form is sent as it is, for the error message of the service. */
export function parseWorkers(text: string): Workers | string {
  const [, min, max] = /^\s*(\d+)\s*(?:[-–]\s*(\d+)\s*)?$/.exec(text) ?? [];
  if (min === undefined) return text;
  return max === undefined ? Number(min) : { min: Number(min), max: Number(max) };
}
