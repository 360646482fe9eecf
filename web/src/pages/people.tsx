/** For admins: people with roles, groups and tokens; quotas; and the audit log. */
import { useSignal } from "@preact/signals";
import { api, read, type Schemas } from "../api/client";
import { Field } from "../components/field";
import { EmptyNote, ErrorNote } from "../components/notes";
import { ScrollRegion } from "../components/scroll-region";
import { ActionsHeading, ShortTable } from "../components/short-table";
import { Tokens } from "../components/tokens";
import { useAction } from "../lib/action";
import { amount, number, time } from "../lib/format";
import { describeData, LIMIT_NAMES, LIMITS, type Quota, readLimits } from "../lib/people";
import { usePolled } from "../lib/poll";
import { useTitle } from "../lib/title";

type Person = Schemas["PersonView"];
type Role = Schemas["Role"];

const ROLES: readonly Role[] = ["viewer", "member", "admin"];

export function PeoplePage() {
  useTitle("People");
  return (
    <>
      <h1>People</h1>
      <People />
      <Quotas />
      <Audit />
    </>
  );
}

function People() {
  const polled = usePolled("people", () => read(api.GET("/v1/people")), 0);
  const { failure, run } = useAction();
  const shown = useSignal<string | null>(null);

  async function change(action: () => Promise<unknown>): Promise<boolean> {
    const hasSucceeded = await run(action);
    polled.refresh();
    return hasSucceeded;
  }

  const update = (name: string, body: Schemas["PersonUpdate"]) =>
    change(() => read(api.PATCH("/v1/people/{name}", { params: { path: { name } }, body })));

  async function remove(name: string, jobs: Schemas["OwnedJobs"]) {
    const fate =
      jobs === "keep"
        ? "jobs, searches and studies stay."
        : "all jobs, searches and studies are deleted, with their weights. They must have ended.";
    if (!confirm(`Remove ${name}? The tokens end; ${fate}`)) return;
    const params = { path: { name }, query: { jobs } };
    if (await change(() => read(api.DELETE("/v1/people/{name}", { params })))) shown.value = null;
  }

  async function add(event: SubmitEvent) {
    event.preventDefault();
    const target = event.currentTarget as HTMLFormElement;
    const form = new FormData(target);
    const name = String(form.get("name"));
    const body = {
      name,
      role: String(form.get("role")) as Role,
      group: String(form.get("group")).trim() || null,
    };
    if (await change(() => read(api.POST("/v1/people", { body })))) {
      target.reset();
      shown.value = name;
    }
  }

  return (
    <>
      <ErrorNote error={polled.error.value ?? failure.value} />
      <ScrollRegion label="People">
        <table>
          <thead>
            <tr>
              <th>Name</th>
              <th>Role</th>
              <th>Group</th>
              <th class="number">Tokens</th>
              <th>Last used</th>
              <ActionsHeading />
            </tr>
          </thead>
          <tbody>
            {polled.data.value?.people.map((person) => (
              <PersonRow
                key={person.name}
                person={person}
                onUpdate={(body) => update(person.name, body)}
                onRemove={(jobs) => remove(person.name, jobs)}
                onShow={() => {
                  shown.value = shown.value === person.name ? null : person.name;
                }}
              />
            ))}
          </tbody>
        </table>
      </ScrollRegion>
      <form class="row" onSubmit={add}>
        <Field label="Name">
          {(attributes) => <input {...attributes} name="name" required maxLength={120} />}
        </Field>
        <Field label="Role">
          {(attributes) => (
            <select {...attributes} name="role">
              {ROLES.map((role) => (
                <option value={role} selected={role === "member"}>
                  {role}
                </option>
              ))}
            </select>
          )}
        </Field>
        <Field label="Group" hint="a course or a team">
          {(attributes) => <input {...attributes} name="group" maxLength={120} />}
        </Field>
        <button type="submit">Add a person</button>
      </form>
      {shown.value !== null && <Tokens key={shown.value} user={shown.value} />}
    </>
  );
}

function PersonRow({
  person,
  onUpdate,
  onRemove,
  onShow,
}: {
  person: Person;
  onUpdate: (body: Schemas["PersonUpdate"]) => void;
  onRemove: (jobs: Schemas["OwnedJobs"]) => void;
  onShow: () => void;
}) {
  return (
    <tr>
      <th scope="row">{person.name}</th>
      <td>
        <select
          aria-label={`Role of ${person.name}`}
          value={person.role}
          onChange={(event) => onUpdate({ role: event.currentTarget.value as Role })}
        >
          {ROLES.map((role) => (
            <option value={role}>{role}</option>
          ))}
        </select>
      </td>
      <td>
        <input
          aria-label={`Group of ${person.name}`}
          defaultValue={person.group ?? ""}
          maxLength={120}
          onChange={(event) => onUpdate({ group: event.currentTarget.value.trim() })}
        />
      </td>
      <td class="number">{number(person.tokens)}</td>
      <td>{person.last_used_at ? time(person.last_used_at) : "never"}</td>
      <td>
        <button type="button" class="quiet" onClick={onShow}>
          Tokens<span class="hidden-visually"> of {person.name}</span>
        </button>
        <button type="button" class="quiet danger" onClick={() => onRemove("keep")}>
          Remove<span class="hidden-visually"> {person.name}</span>
        </button>
        <button type="button" class="quiet danger" onClick={() => onRemove("delete")}>
          Remove with jobs<span class="hidden-visually"> of {person.name}</span>
        </button>
      </td>
    </tr>
  );
}

function Quotas() {
  const polled = usePolled("quotas", () => read(api.GET("/v1/quotas")), 0);
  const quotas = polled.data.value?.quotas;
  const { failure, run } = useAction();

  async function set(event: SubmitEvent) {
    event.preventDefault();
    const target = event.currentTarget as HTMLFormElement;
    const form = new FormData(target);
    const params = { path: { key: String(form.get("key")) } };
    const body = readLimits(form);
    if (await run(() => read(api.PUT("/v1/quotas/{key}", { params, body })))) target.reset();
    polled.refresh();
  }

  async function remove(quota: Quota) {
    if (!confirm(`Remove the limits of ${quota.key}?`)) return;
    const params = { path: { key: quota.key } };
    await run(() => read(api.DELETE("/v1/quotas/{key}", { params })));
    polled.refresh();
  }

  return (
    <section class="section">
      <h2>Quotas</h2>
      <ErrorNote error={polled.error.value ?? failure.value} />
      <ShortTable
        label="Quotas"
        rows={quotas}
        note={
          <EmptyNote title="No quotas.">Without one, no person, group or tag is limited.</EmptyNote>
        }
        headings={
          <>
            <th>Of</th>
            {LIMIT_NAMES.map((name) => (
              <th class="number">{LIMITS[name]}</th>
            ))}
            <ActionsHeading />
          </>
        }
      >
        {(quota) => (
          <tr key={quota.key}>
            <th scope="row">{quota.key}</th>
            {LIMIT_NAMES.map((name) => (
              <td class="number">{amount(quota[name])}</td>
            ))}
            <td>
              <button type="button" class="quiet danger" onClick={() => remove(quota)}>
                Remove<span class="hidden-visually"> {quota.key}</span>
              </button>
            </td>
          </tr>
        )}
      </ShortTable>
      <form class="row" onSubmit={set}>
        <Field label="Of" hint="user:ann, group:lab, tag:nightly, or user:* for each other">
          {(attributes) => (
            <input {...attributes} name="key" required pattern="(user|group|tag):.+" />
          )}
        </Field>
        {LIMIT_NAMES.map((name) => (
          <Field label={LIMITS[name]}>
            {(attributes) => <input {...attributes} name={name} type="number" min={0} step="any" />}
          </Field>
        ))}
        <button type="submit">Set all limits</button>
      </form>
    </section>
  );
}

function Audit() {
  const polled = usePolled("audit", () => read(api.GET("/v1/audit")), 10);
  const older = useSignal<Schemas["AuditPage"][]>([]);
  const { failure, run } = useAction();
  const pages = polled.data.value && [polled.data.value, ...older.value];
  const entries = pages?.flatMap((page) => page.entries);
  const next = pages?.at(-1)?.next_page_token;

  const load = (token: string) =>
    run(async () => {
      const params = { query: { page_token: token } };
      older.value = [...older.value, await read(api.GET("/v1/audit", { params }))];
    });

  return (
    <section class="section">
      <h2>Audit log</h2>
      <ErrorNote error={polled.error.value ?? failure.value} />
      <ShortTable
        label="Audit log"
        rows={entries}
        note={<EmptyNote title="No entries." />}
        headings={
          <>
            <th>At</th>
            <th>Who</th>
            <th>What</th>
            <th>Of</th>
            <th>Details</th>
          </>
        }
      >
        {(entry) => (
          <tr key={entry.id}>
            <td>{time(entry.at)}</td>
            <td>{entry.user ?? "–"}</td>
            <td>{entry.kind.replaceAll("-", " ")}</td>
            <td>{entry.subject}</td>
            <td>{describeData(entry.data)}</td>
          </tr>
        )}
      </ShortTable>
      {next && (
        <button type="button" onClick={() => load(next)}>
          Older entries
        </button>
      )}
    </section>
  );
}
