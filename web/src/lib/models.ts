/** Names and origins of registered models. */
import type { Schemas } from "../api/client";
import { number } from "./format";
import { MODES } from "./lineage";

type Source = Schemas["ModelSource"];

/** Of a model's page. Slashes of the name stay, as in the name itself. */
export function addressOfModel(name: string): string {
  return `/models/${name}`;
}

/** Of a name of a checkpoint: `NAME@NUMBER` or `NAME@ALIAS`. */
export function modelOf(reference: string): string {
  return reference.slice(0, reference.lastIndexOf("@"));
}

/** What the training began with, without the link to its job. */
export function describeSource(source: Source | null): string {
  if (source === null) return "new weights";
  const from = source.weights ?? `iteration ${number(source.iteration ?? 0)} of`;
  return `${MODES[source.mode]}, from ${from}`;
}
