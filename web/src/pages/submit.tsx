/** Submitting a job: the service says while one types what the job needs and when it would start. */
import { type Signal, useComputed, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { ApiError, api, type FieldError, read, type Schemas } from "../api/client";
import { Fact } from "../components/facts";
import { Field } from "../components/field";
import { ErrorNote } from "../components/notes";
import { bytes, count, duration, number, time } from "../lib/format";
import { parseSeeds } from "../lib/jobs";
import { usePolled } from "../lib/poll";
import { navigate, query } from "../lib/route";
import { EMPTY_FORM, errorsByField, type Form, formOf, type Spec, specOf } from "../lib/submission";
import { useTitle } from "../lib/title";

type Plan = Schemas["PlanView"];

const PAUSE_MILLISECONDS = 200;
const SHORTCUTS = [
  ["A", "A: identity, zero padding"],
  ["B", "B: projection where the size changes"],
  ["C", "C: projection everywhere"],
  ["none", "none: plain network"],
];

export function SubmitPage() {
  const source = query.value.get("from");
  useTitle(source ? "Clone a job" : "Submit a job");
  const form = useSignal<Form>(EMPTY_FORM);
  const plan = useSignal<Plan | null>(null);
  const errors = useSignal<FieldError[]>([]);
  const failure = useSignal<ApiError | null>(null);
  const isBusy = useSignal(false);
  const options = usePolled("options", readOptions, 0);
  const byField = useComputed(() => errorsByField(errors.value)).value;

  useEffect(() => {
    if (!source) return;
    read(api.GET("/v1/jobs/{job_id}", { params: { path: { job_id: source } } })).then(
      (job) => {
        form.value = formOf(job.spec);
      },
      (error) => {
        failure.value = error;
      },
    );
  }, [source]);

  useEffect(() => {
    let isOutdated = false;
    const timer = setTimeout(async () => {
      const result = await planOf(form.value);
      if (isOutdated) return;
      plan.value = result.plan;
      errors.value = result.errors;
      failure.value = result.failure;
    }, PAUSE_MILLISECONDS);
    return () => {
      isOutdated = true;
      clearTimeout(timer);
    };
  }, [form.value]);

  async function submit(event: SubmitEvent) {
    event.preventDefault();
    const seeds = parseSeeds(form.value.seeds);
    if (!seeds) return;
    isBusy.value = true;
    try {
      const specs = seeds.map((seed) => ({ ...specOf(form.value), seed })) as unknown as Spec[];
      const [first] = specs;
      if (specs.length > 1 || !first) {
        await read(api.POST("/v1/jobs:batch", { body: { jobs: specs } }));
        navigate("/");
      } else navigate(`/jobs/${(await read(api.POST("/v1/jobs", { body: first }))).id}`);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      errors.value = error.errors;
      failure.value = error.errors.length ? null : error;
    } finally {
      isBusy.value = false;
    }
  }

  const text = (field: keyof Form, label: string, hint?: string) => (
    <Field label={label} error={byField[field]} hint={hint}>
      {(attributes) => (
        <input
          {...attributes}
          type="text"
          value={form.value[field]}
          onInput={(event) => set(form, field, event)}
        />
      )}
    </Field>
  );
  const choice = (field: keyof Form, label: string, values: string[][]) => (
    <Field label={label} error={byField[field]}>
      {(attributes) => (
        <select
          {...attributes}
          value={form.value[field]}
          onChange={(event) => set(form, field, event)}
        >
          {values.map(([value, title]) => (
            <option value={value} selected={value === form.value[field]}>
              {title ?? value}
            </option>
          ))}
        </select>
      )}
    </Field>
  );
  const seedCount = parseSeeds(form.value.seeds)?.length ?? 0;
  const datasets = options.data.value?.datasets ?? [form.value.dataset];
  return (
    <>
      <h1>{source ? "Clone a job" : "Submit a job"}</h1>
      <ErrorNote error={failure.value ?? options.error.value} />
      <form class="submit" onSubmit={submit} noValidate>
        <div class="section">
          <h2>Network and data</h2>
          <div class="fields">
            {choice("dataset", "Dataset", withCurrent(datasets, form.value.dataset))}
            {text("depth", "Depth")}
            {choice("shortcut", "Shortcut", SHORTCUTS)}
            {choice("recipe", "Recipe", [
              ["", "default of the dataset"],
              ...withCurrent(options.data.value?.recipes ?? [], form.value.recipe),
            ])}
            {text("iterations", "Iterations", "empty: as the recipe")}
            {text(
              "seeds",
              "Seeds",
              seedCount > 1 ? `${seedCount} jobs` : "0, or 0-4 for five jobs",
            )}
          </div>
          <h2>Resources</h2>
          <div class="fields">
            {text("num_workers", "Workers", "empty: 1; 1-8: as many as are free")}
            {text("cpus_per_worker", "CPUs per worker", "empty: 1")}
            {text("gpus_per_worker", "GPUs per worker", "empty: where there are some")}
            {text("priority", "Priority", "0 to 100; empty: 50")}
          </div>
          <h2>Label</h2>
          <div class="fields">
            {text("name", "Name", "empty: network and dataset")}
            {text("tags", "Tags", "separated by spaces")}
          </div>
          <details open={Boolean(form.value.other || byField.other)}>
            <summary>Further fields of the spec</summary>
            <Field
              label="JSON object"
              error={byField.other}
              hint={`As in the job spec: {"activation_order": "full-preactivation", "recipe": {"learning_rate": 0.05}}`}
            >
              {(attributes) => (
                <textarea
                  {...attributes}
                  class="mono"
                  rows={8}
                  value={form.value.other}
                  onInput={(event) => set(form, "other", event)}
                />
              )}
            </Field>
          </details>
          <div class="row">
            <button type="submit" class="primary" disabled={isBusy.value || seedCount === 0}>
              {seedCount > 1 ? `Submit ${seedCount} jobs` : "Submit"}
            </button>
            {seedCount === 0 && <span class="bad">Seeds must be numbers such as 0, 3 or 0-4.</span>}
          </div>
        </div>
        <PlanNote plan={plan.value} />
      </form>
    </>
  );
}

function set(form: Signal<Form>, field: keyof Form, event: Event) {
  form.value = { ...form.value, [field]: (event.currentTarget as HTMLInputElement).value };
}

function withCurrent(values: string[], current: string): string[][] {
  const all = current && !values.includes(current) ? [...values, current] : values;
  return all.map((value) => [value]);
}

async function readOptions() {
  const [datasets, recipes] = await Promise.all([
    read(api.GET("/v1/datasets")),
    read(api.GET("/v1/recipes")),
  ]);
  return {
    datasets: datasets.datasets.map((dataset) => dataset.name),
    recipes: recipes.recipes.map((recipe) => recipe.name),
  };
}

async function planOf(
  form: Form,
): Promise<{ plan: Plan | null; errors: FieldError[]; failure: ApiError | null }> {
  let spec: Record<string, unknown>;
  try {
    spec = specOf(form);
  } catch (error) {
    return { plan: null, errors: [error as FieldError], failure: null };
  }
  try {
    const plan = await read(api.POST("/v1/jobs:plan", { body: spec as unknown as Spec }));
    return { plan, errors: [], failure: null };
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    return { plan: null, errors: error.errors, failure: error.errors.length ? null : error };
  }
}

function PlanNote({ plan }: { plan: Plan | null }) {
  return (
    <aside class="note plan" aria-live="polite" aria-label="Plan">
      <h2>{plan ? plan.network : "Plan"}</h2>
      {!plan && <p class="muted">Appears when the fields are valid.</p>}
      {plan && (
        <>
          <dl class="facts">
            <Fact name="Parameters">{count(plan.parameters)}</Fact>
            <Fact name="Multiply-adds">{count(plan.multiply_adds)}</Fact>
            <Fact name="Memory of a worker">{bytes(plan.resident_bytes)}</Fact>
            <Fact name="Of it, tensors">{bytes(plan.tensor_bytes)}</Fact>
            <Fact name="Epochs">{number(plan.epochs, 1)}</Fact>
            <Fact name="Duration">{plan.minutes ? durationOf(plan.minutes) : "not known yet"}</Fact>
            <Fact name="Starts">
              {plan.waiting.starts_p50 ? `about ${time(plan.waiting.starts_p50)}` : "–"}
            </Fact>
          </dl>
          <p class="muted">{plan.waiting.message}</p>
          {plan.notes.length > 0 && (
            <ul>
              {plan.notes.map((note) => (
                <li>{note}</li>
              ))}
            </ul>
          )}
        </>
      )}
    </aside>
  );
}

function durationOf({ p50, p90, basis, samples }: Schemas["DurationView"]): string {
  const [median, high] = [duration(p50 * 60), duration(p90 * 60)];
  const range = median === high ? `about ${median}` : `${median}, at most ${high}`;
  const of = samples === 1 ? "1 attempt" : `${samples} attempts`;
  return basis === "other-networks"
    ? `${range}, by multiply-adds from ${of} of other networks`
    : `${range}, from ${of} of jobs like it`;
}
