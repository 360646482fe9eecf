/** One model: its versions with their lineage, its aliases, promotion with a note, its history. */
import { api, read, type Schemas } from "../api/client";
import { Field } from "../components/field";
import { EmptyNote, ErrorNote } from "../components/notes";
import { ScrollRegion } from "../components/scroll-region";
import { ActionsHeading, ShortTable } from "../components/short-table";
import { useAction } from "../lib/action";
import { describeEvent } from "../lib/events";
import { number, percent, time } from "../lib/format";
import { describeSource } from "../lib/models";
import { usePolled } from "../lib/poll";
import { navigate } from "../lib/route";
import { useTitle } from "../lib/title";
import { mayChange } from "../session";

type Model = Schemas["ModelView"];
type Version = Schemas["ModelVersionView"];
type Change = (action: () => Promise<unknown>) => Promise<boolean>;

interface Found {
  model: Model;
  versions: Version[];
  events: Schemas["EventView"][];
}

export function ModelPage({ name }: { name: string }) {
  const polled = usePolled(`model ${name}`, () => find(name), 0);
  const { failure, run } = useAction();
  useTitle(name);
  const found = polled.data.value;
  const missing = polled.error.value?.status === 404;
  if (!found)
    return (
      <>
        <h1>Model</h1>
        <ErrorNote error={polled.error.value} />
        {missing && (
          <EmptyNote title="It may have been deleted.">
            <a href="/models">Go to the models</a>
          </EmptyNote>
        )}
      </>
    );
  const { model, versions } = found;
  const isOwn = mayChange(model.user);

  async function change(action: () => Promise<unknown>): Promise<boolean> {
    const hasSucceeded = await run(action);
    polled.refresh();
    return hasSucceeded;
  }

  async function remove() {
    if (!confirm(`Delete ${model.name} with all versions? Their jobs and checkpoints stay.`))
      return;
    const params = { path: { model_id: model.id } };
    if (await run(() => read(api.DELETE("/v1/models/{model_id}", { params })))) navigate("/models");
  }

  const jobs = new Set(versions.map((version) => version.job_id));
  return (
    <>
      <div class="head">
        <h1>{model.name}</h1>
        <span class="muted">of {model.user}</span>
        <div class="end">
          {jobs.size > 1 && (
            <a
              class="button"
              href={`/compare?${new URLSearchParams([...jobs].map((job) => ["job", job]))}`}
            >
              Compare the jobs
            </a>
          )}
          {isOwn && (
            <button type="button" class="danger" onClick={remove}>
              Delete
            </button>
          )}
        </div>
      </div>
      <ErrorNote error={polled.error.value ?? failure.value} />
      <Aliases model={model} versions={versions} change={isOwn ? change : null} />
      <Versions versions={versions} change={isOwn ? change : null} />
      <section class="section">
        <h2>History</h2>
        <ol class="events">
          {found.events.toReversed().map((event) => (
            <li key={event.number}>
              <time dateTime={event.at}>{time(event.at)}</time> {describeEvent(event)}
            </li>
          ))}
        </ol>
      </section>
    </>
  );
}

async function find(name: string): Promise<Found> {
  const reference = { params: { query: { ref: name } } };
  const { model_id } = await read(api.GET("/v1/models:resolve", reference));
  const params = { path: { model_id } };
  const [model, { versions }, { events }] = await Promise.all([
    read(api.GET("/v1/models/{model_id}", { params })),
    read(api.GET("/v1/models/{model_id}/versions", { params })),
    read(api.GET("/v1/models/{model_id}/events", { params })),
  ]);
  return { model, versions, events };
}

/** `change`: null where the person may not. */
function Aliases({
  model,
  versions,
  change,
}: {
  model: Model;
  versions: Version[];
  change: Change | null;
}) {
  const pathOf = (alias: string) => ({ params: { path: { model_id: model.id, alias } } });

  async function promote(event: SubmitEvent) {
    event.preventDefault();
    const target = event.currentTarget as HTMLFormElement;
    const form = new FormData(target);
    const body = { version: Number(form.get("version")), note: String(form.get("note")).trim() };
    const alias = String(form.get("alias")).trim();
    const request = () =>
      read(api.PUT("/v1/models/{model_id}/aliases/{alias}", { ...pathOf(alias), body }));
    if (await change?.(request)) target.reset();
  }

  async function remove(alias: string) {
    if (!confirm(`Remove the alias ${alias}? Its version stays.`)) return;
    await change?.(() => read(api.DELETE("/v1/models/{model_id}/aliases/{alias}", pathOf(alias))));
  }

  return (
    <section class="section">
      <h2>Aliases</h2>
      <ShortTable
        label="Aliases"
        rows={model.aliases}
        note={
          <EmptyNote title="No aliases.">
            An alias such as <code>production</code> is at one version and is moved to another.
          </EmptyNote>
        }
        headings={
          <>
            <th>Alias</th>
            <th class="number">Version</th>
            <th>Note</th>
            <th>Moved by</th>
            <th>Moved</th>
            {change && <ActionsHeading />}
          </>
        }
      >
        {(row) => (
          <tr key={row.alias}>
            <th scope="row">{row.alias}</th>
            <td class="number">{row.version}</td>
            <td>{row.note}</td>
            <td>{row.user}</td>
            <td>{time(row.moved_at)}</td>
            {change && (
              <td>
                <button type="button" class="quiet danger" onClick={() => remove(row.alias)}>
                  Remove<span class="hidden-visually"> {row.alias}</span>
                </button>
              </td>
            )}
          </tr>
        )}
      </ShortTable>
      {change && (
        <form class="row" onSubmit={promote}>
          <Field label="Alias">
            {(attributes) => (
              <input
                {...attributes}
                name="alias"
                list="aliases"
                required
                placeholder="production"
              />
            )}
          </Field>
          <datalist id="aliases">
            {model.aliases.map(({ alias }) => (
              <option value={alias} />
            ))}
          </datalist>
          <Field label="Version">
            {(attributes) => (
              <select {...attributes} name="version">
                {versions.map(({ version }) => (
                  <option value={version}>{version}</option>
                ))}
              </select>
            )}
          </Field>
          <Field label="Note">
            {(attributes) => <input {...attributes} name="note" size={32} maxLength={10_000} />}
          </Field>
          <button type="submit">Promote</button>
        </form>
      )}
    </section>
  );
}

function Versions({ versions, change }: { versions: Version[]; change: Change | null }) {
  async function remove({ model_id, version, name }: Version) {
    if (!confirm(`Delete version ${version} of ${name}? Its job and checkpoint stay.`)) return;
    const params = { path: { model_id, version } };
    await change?.(() => read(api.DELETE("/v1/models/{model_id}/versions/{version}", { params })));
  }

  return (
    <section class="section">
      <header>
        <h2>Versions</h2>
        <span class="muted">
          their checkpoints are kept, and their jobs cannot be deleted, while the versions exist
        </span>
      </header>
      <ScrollRegion label="Versions">
        <table>
          <thead>
            <tr>
              <th class="number">Version</th>
              <th>Aliases</th>
              <th class="number">Test error</th>
              <th>Downloads</th>
              <th>Network</th>
              <th>Job</th>
              <th>Began with</th>
              <th>Registered</th>
              <th>Note</th>
              {change && <ActionsHeading />}
            </tr>
          </thead>
          <tbody>
            {versions.map((row) => {
              const isDeletable = versions.length > 1 && row.aliases.length === 0;
              const reference = new URLSearchParams({ ref: `${row.name}@${row.version}` });
              return (
                <tr key={row.version}>
                  <th scope="row" class="number">
                    {row.version}
                  </th>
                  <td>{row.aliases.join(", ")}</td>
                  <td class="number">{percent(row.lineage.test_error)}</td>
                  <td class="downloads">
                    <a href={`/v1/models:download?${reference}`} download>
                      safetensors
                    </a>
                    <a href={`/jobs/${row.job_id}`}>others</a>
                  </td>
                  <td>
                    {row.lineage.network} on {row.lineage.dataset}
                  </td>
                  <td>
                    <a href={`/jobs/${row.job_id}`}>
                      <code>{row.job_id}</code>
                    </a>
                    , iteration {number(row.lineage.iteration)}
                  </td>
                  <td>
                    {describeSource(row.lineage.source)}
                    {row.lineage.source?.job && (
                      <>
                        {" "}
                        <a href={`/jobs/${row.lineage.source.job}`}>
                          <code>{row.lineage.source.job}</code>
                        </a>
                      </>
                    )}
                  </td>
                  <td>
                    {time(row.created_at)} by {row.user}
                  </td>
                  <td>{row.note}</td>
                  {change && (
                    <td>
                      {isDeletable && (
                        <button type="button" class="quiet danger" onClick={() => remove(row)}>
                          Delete<span class="hidden-visually"> version {row.version}</span>
                        </button>
                      )}
                    </td>
                  )}
                </tr>
              );
            })}
          </tbody>
        </table>
      </ScrollRegion>
    </section>
  );
}
