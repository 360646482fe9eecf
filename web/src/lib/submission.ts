/** The form of a job: its fields, the spec that they make, and where an error belongs. */
import type { FieldError, Schemas } from "../api/client";
import { formatWorkers, parseWorkers } from "./workers";

export type Spec = Schemas["JobSpec"];

/** Texts as typed; an empty one takes the service's default. */
export interface Form {
  dataset: string;
  depth: string;
  shortcut: string;
  recipe: string;
  iterations: string;
  seeds: string;
  name: string;
  num_workers: string;
  cpus_per_worker: string;
  gpus_per_worker: string;
  priority: string;
  tags: string;
  /** Further fields of the spec, as JSON. */
  other: string;
}

export const EMPTY_FORM: Form = {
  dataset: "digits",
  depth: "20",
  shortcut: "A",
  recipe: "",
  iterations: "",
  seeds: "0",
  name: "",
  num_workers: "",
  cpus_per_worker: "",
  gpus_per_worker: "",
  priority: "",
  tags: "",
  other: "",
};

const RESOURCES = ["num_workers", "cpus_per_worker", "gpus_per_worker"] as const;

/** The spec without its seed. Throws a FieldError where `other` is no JSON object. */
export function specOf(form: Form): Record<string, unknown> {
  const other = parseOther(form.other);
  const spec: Record<string, unknown> = {
    ...other,
    dataset: form.dataset,
    depth: numberOf(form.depth),
    shortcut: form.shortcut,
  };
  const resources = { ...(other.resources as object) } as Record<string, unknown>;
  for (const field of RESOURCES)
    if (form[field])
      resources[field] = (field === "num_workers" ? parseWorkers : numberOf)(form[field]);
  if (Object.keys(resources).length) spec.resources = resources;
  const given = other.recipe;
  const recipe = { ...(typeof given === "string" ? { name: given } : (given as object)) } as Record<
    string,
    unknown
  >;
  if (form.recipe) recipe.name = form.recipe;
  if (form.iterations) recipe.iterations = numberOf(form.iterations);
  if (Object.keys(recipe).length) spec.recipe = recipe;
  if (form.name) spec.name = form.name;
  if (form.priority) spec.priority = numberOf(form.priority);
  const tags = form.tags.split(/[\s,]+/).filter(Boolean);
  if (tags.length) spec.tags = tags;
  return spec;
}

/** The form that makes this spec again: what has no field of its own is in `other`. */
export function formOf(spec: Spec): Form {
  const { dataset, depth, shortcut, recipe, resources, name, priority, tags, seed, ...rest } = spec;
  const {
    name: recipeName,
    iterations,
    ...recipeRest
  } = recipe as unknown as Record<string, unknown>;
  return {
    dataset,
    depth: String(depth),
    shortcut,
    recipe: String(recipeName),
    iterations: iterations === undefined ? "" : String(iterations),
    seeds: String(seed),
    name: name ?? "",
    num_workers: formatWorkers(resources.num_workers),
    cpus_per_worker: textOf(resources.cpus_per_worker),
    gpus_per_worker: textOf(resources.gpus_per_worker),
    priority: String(priority),
    tags: tags.join(" "),
    other: JSON.stringify({ ...rest, recipe: recipeRest }, null, 2),
  };
}

/** The errors by the field of the form that they belong to. */
export function errorsByField(errors: readonly FieldError[]): Partial<Record<keyof Form, string>> {
  const found: Partial<Record<keyof Form, string>> = {};
  for (const { pointer, message } of errors) {
    const path = pointer
      .replace(/^\/jobs\/\d+/, "")
      .split("/")
      .slice(1);
    const field = fieldOf(path);
    const text = field === "other" ? `${pointer}: ${message}` : message;
    found[field] = found[field] ? `${found[field]}; ${text}` : text;
  }
  return found;
}

function fieldOf([first = "", second = ""]: string[]): keyof Form {
  if (first === "seed") return "seeds";
  if (first === "recipe") {
    if (second === "iterations") return "iterations";
    return second === "" || second === "name" ? "recipe" : "other";
  }
  if (first === "resources" && (RESOURCES as readonly string[]).includes(second))
    return second as keyof Form;
  return first in EMPTY_FORM ? (first as keyof Form) : "other";
}

function parseOther(text: string): Record<string, unknown> {
  if (!text.trim()) return {};
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    throw { pointer: "/other", message: `is not JSON: ${(error as Error).message}` };
  }
  if (parsed === null || typeof parsed !== "object" || Array.isArray(parsed))
    throw { pointer: "/other", message: "must be a JSON object" };
  return parsed as Record<string, unknown>;
}

/** Text that is not a number is sent as it is, for the error message of the service. */
function numberOf(text: string): number | string {
  const value = Number(text);
  return text.trim() === "" || Number.isNaN(value) ? text : value;
}

function textOf(value: number | null | undefined): string {
  return value === null || value === undefined ? "" : String(value);
}
