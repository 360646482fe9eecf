/** The list of studies, and a form that submits one that the service has. */
import { useSignal } from "@preact/signals";
import { api, read, type Schemas } from "../api/client";
import { Field } from "../components/field";
import { EmptyNote, ErrorNote } from "../components/notes";
import { type Column, Table } from "../components/table";
import { useAction } from "../lib/action";
import { time } from "../lib/format";
import { source, useLive } from "../lib/live";
import { usePolled } from "../lib/poll";
import { navigate } from "../lib/route";
import { useTitle } from "../lib/title";
import { maySubmit } from "../session";

type Study = Schemas["StudyView"];
type Scale = Schemas["Scale"];

const COLUMNS: Column<Study>[] = [
  {
    id: "name",
    title: "Study",
    clip: true,
    cell: (study) => (
      <a class="row" href={`/studies/${study.id}`}>
        {study.name}
      </a>
    ),
  },
  { id: "scale", title: "Scale", cell: (study) => study.scale },
  { id: "dataset", title: "Dataset", wide: true, cell: (study) => study.dataset },
  { id: "seeds", title: "Seeds", number: true, cell: (study) => study.seeds },
  { id: "user", title: "User", wide: true, cell: (study) => study.user },
  { id: "submitted", title: "Submitted", wide: true, cell: (study) => time(study.created_at) },
];

export function StudiesPage() {
  useTitle("Studies");
  const live = useLive(source("/v1/studies", { query: { limit: 500 } }));
  const studies = live.data.value?.studies;
  return (
    <>
      <h1>Studies</h1>
      <ErrorNote error={live.error.value} />
      {studies?.length === 0 && (
        <EmptyNote title="No studies yet.">
          A study trains networks over seeds and reports them beside the paper's numbers. Submit one
          below, or run <code>resnetd study run fig6</code>.
        </EmptyNote>
      )}
      {studies && studies.length > 0 && (
        <Table label="Studies" rows={studies} columns={COLUMNS} idOf={(study) => study.id} />
      )}
      {maySubmit.value && <NewStudy />}
    </>
  );
}

function NewStudy() {
  const polled = usePolled("definitions", () => read(api.GET("/v1/study-definitions")), 0);
  const definitions = polled.data.value?.definitions ?? [];
  const name = useSignal("fig6");
  const scale = useSignal<Scale>("smoke");
  const seeds = useSignal("");
  const { failure, run } = useAction();
  const chosen = definitions.find((definition) => definition.name === name.value);
  const scales = Object.entries(chosen?.scales ?? {});
  const shown = chosen?.scales?.[scale.value] ?? scales[0]?.[1];

  async function submit(event: SubmitEvent) {
    event.preventDefault();
    await run(async () => {
      const body = {
        study: name.value,
        scale: scale.value,
        seeds: seeds.value === "" ? null : Number(seeds.value),
      };
      const study = await read(api.POST("/v1/studies", { body }));
      navigate(`/studies/${study.id}`);
    });
  }

  return (
    <section class="section">
      <h2>Submit a study</h2>
      <ErrorNote error={polled.error.value ?? failure.value} />
      <form class="row" onSubmit={submit}>
        <Field label="Study">
          {(attributes) => (
            <select
              {...attributes}
              value={name.value}
              onChange={(event) => {
                name.value = event.currentTarget.value;
              }}
            >
              {definitions.map((definition) => (
                <option value={definition.name}>{definition.title}</option>
              ))}
            </select>
          )}
        </Field>
        <Field label="Scale" hint={shown && `${shown.dataset}, seeds: ${shown.seeds}`}>
          {(attributes) => (
            <select
              {...attributes}
              value={scale.value}
              onChange={(event) => {
                scale.value = event.currentTarget.value as Scale;
              }}
            >
              {scales.map(([known]) => (
                <option value={known}>{known}</option>
              ))}
            </select>
          )}
        </Field>
        <Field label="Seeds" hint="empty: those of the scale">
          {(attributes) => (
            <input
              {...attributes}
              type="number"
              min={1}
              max={100}
              value={seeds.value}
              onInput={(event) => {
                seeds.value = event.currentTarget.value;
              }}
            />
          )}
        </Field>
        <button type="submit" class="primary">
          Submit
        </button>
      </form>
    </section>
  );
}
