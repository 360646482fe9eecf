/** The model registry: names of weights, and a form that registers a checkpoint. */
import { api, read, type Schemas } from "../api/client";
import { Field } from "../components/field";
import { EmptyNote, ErrorNote } from "../components/notes";
import { ShortTable } from "../components/short-table";
import { messageOf, useAction } from "../lib/action";
import { time } from "../lib/format";
import { addressOfModel } from "../lib/models";
import { usePolled } from "../lib/poll";
import { navigate, query } from "../lib/route";
import { useTitle } from "../lib/title";
import { maySubmit } from "../session";

const PAGE_SIZE = 1000;

export function ModelsPage() {
  useTitle("Models");
  const polled = usePolled(
    "models",
    () => read(api.GET("/v1/models", { params: { query: { limit: PAGE_SIZE } } })),
    0,
  );
  const found = polled.data.value;
  return (
    <>
      <h1>Models</h1>
      <ErrorNote error={polled.error.value} />
      <ShortTable
        label="Models"
        rows={found?.models}
        note={
          <EmptyNote title="No models yet.">
            A model is a name for weights. It has numbered versions, each a checkpoint of a job, and
            aliases such as <code>production</code> that are moved between them.
          </EmptyNote>
        }
        headings={
          <>
            <th>Name</th>
            <th class="number">Newest version</th>
            <th>Aliases</th>
            <th class="wide">Owner</th>
            <th class="wide">Created</th>
          </>
        }
      >
        {(model) => (
          <tr key={model.id}>
            <th scope="row">
              <a href={addressOfModel(model.name)}>{model.name}</a>
            </th>
            <td class="number">{model.newest_version}</td>
            <td>{model.aliases.map(({ alias, version }) => `${alias}: ${version}`).join(", ")}</td>
            <td class="wide">{model.user}</td>
            <td class="wide">{time(model.created_at)}</td>
          </tr>
        )}
      </ShortTable>
      {found?.next_page_token && (
        <p class="muted">
          Only the newest {PAGE_SIZE} are listed; <code>resnetd model list</code> has the others.
        </p>
      )}
      {maySubmit.value && <Register models={found?.models ?? []} />}
    </>
  );
}

function Register({ models }: { models: readonly Schemas["ModelView"][] }) {
  const { failure, run } = useAction();

  async function register(event: SubmitEvent) {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    const body = {
      name: String(form.get("name")).trim(),
      job: String(form.get("job")).trim(),
      checkpoint: String(form.get("checkpoint")).trim(),
      note: String(form.get("note")).trim(),
    };
    if (await run(() => read(api.POST("/v1/models", { body }))))
      navigate(addressOfModel(body.name));
  }

  return (
    <section class="section" aria-label="Register">
      <h2>Register weights</h2>
      <form class="row" onSubmit={register}>
        <Field label="Name" hint="a new one, or one of yours" error={messageOf(failure.value)}>
          {(attributes) => (
            <input
              {...attributes}
              name="name"
              list="models"
              required
              placeholder="resnet-56/course"
            />
          )}
        </Field>
        <datalist id="models">
          {models.map(({ name }) => (
            <option value={name} />
          ))}
        </datalist>
        <Field label="Job" hint="its id">
          {(attributes) => (
            <input
              {...attributes}
              name="job"
              required
              defaultValue={query.value.get("job") ?? ""}
            />
          )}
        </Field>
        <Field label="Checkpoint" hint="newest, best, or an id">
          {(attributes) => (
            <input {...attributes} name="checkpoint" required defaultValue="newest" />
          )}
        </Field>
        <Field label="Note" hint="why, or how">
          {(attributes) => <input {...attributes} name="note" maxLength={10_000} />}
        </Field>
        <button type="submit">Register</button>
      </form>
    </section>
  );
}
