/** The tokens of a person: listed, created and revoked. */
import { useSignal } from "@preact/signals";
import { api, read, type Schemas } from "../api/client";
import { messageOf, useAction } from "../lib/action";
import { time } from "../lib/format";
import { usePolled } from "../lib/poll";
import { Field } from "./field";
import { NewSecret } from "./new-secret";
import { EmptyNote, ErrorNote } from "./notes";
import { ActionsHeading, ShortTable } from "./short-table";

type Token = Schemas["TokenView"];
type Scope = Schemas["TokenScope"];

const SCOPES: [Scope, string][] = [
  ["full", "everything that your role permits"],
  ["submit", "read and submit"],
  ["read", "read"],
];

/** Without `user`: one's own. */
export function Tokens({ user }: { user?: string }) {
  const params = { query: user === undefined ? {} : { user } };
  const polled = usePolled(`tokens ${user}`, () => read(api.GET("/v1/tokens", { params })), 0);
  const tokens = polled.data.value?.tokens;
  const { failure, run } = useAction();

  async function revoke(token: Token) {
    if (!confirm(`Revoke the token ${token.label}? Whatever uses it is signed out.`)) return;
    const params = { path: { token_id: token.id } };
    await run(() => read(api.DELETE("/v1/tokens/{token_id}", { params })));
    polled.refresh();
  }

  return (
    <section class="section">
      <h2>{user === undefined ? "Tokens" : `Tokens of ${user}`}</h2>
      <ErrorNote error={polled.error.value ?? failure.value} />
      <ShortTable
        label="Tokens"
        rows={tokens}
        note={<EmptyNote title="No tokens." />}
        headings={
          <>
            <th>Label</th>
            <th>Scope</th>
            <th>Tag</th>
            <th>Created</th>
            <th>Expires</th>
            <th>Last used</th>
            <ActionsHeading />
          </>
        }
      >
        {(token) => (
          <tr key={token.id}>
            <th scope="row">{token.label}</th>
            <td>{token.scope}</td>
            <td>{token.tag ?? "–"}</td>
            <td>{time(token.created_at)}</td>
            <td>{token.expires_at ? time(token.expires_at) : "never"}</td>
            <td>{token.last_used_at ? time(token.last_used_at) : "never"}</td>
            <td>
              <button type="button" class="quiet danger" onClick={() => revoke(token)}>
                Revoke<span class="hidden-visually"> {token.label}</span>
              </button>
            </td>
          </tr>
        )}
      </ShortTable>
      <NewToken key={user} user={user} onAdded={polled.refresh} />
    </section>
  );
}

function NewToken({ user, onAdded }: { user: string | undefined; onAdded: () => void }) {
  const { failure, run } = useAction();
  const secret = useSignal<string | null>(null);

  async function create(event: SubmitEvent) {
    event.preventDefault();
    const target = event.currentTarget as HTMLFormElement;
    const form = new FormData(target);
    const days = Number(form.get("days"));
    await run(async () => {
      const body = {
        label: String(form.get("label")),
        scope: String(form.get("scope")) as Scope,
        expires_at: days > 0 ? new Date(Date.now() + days * 86_400_000).toISOString() : null,
      };
      const params = { query: user === undefined ? {} : { user } };
      secret.value = (await read(api.POST("/v1/tokens", { params, body }))).secret;
      target.reset();
      onAdded();
    });
  }

  return (
    <>
      <form class="row" onSubmit={create}>
        <Field label="Label" error={messageOf(failure.value)} hint="what it is for">
          {(attributes) => <input {...attributes} name="label" required maxLength={120} />}
        </Field>
        <Field label="Scope">
          {(attributes) => (
            <select {...attributes} name="scope">
              {SCOPES.map(([scope, title]) => (
                <option value={scope}>{title}</option>
              ))}
            </select>
          )}
        </Field>
        <Field label="Days" hint="empty: never expires">
          {(attributes) => <input {...attributes} name="days" type="number" min={1} max={3660} />}
        </Field>
        <button type="submit">Create a token</button>
      </form>
      <NewSecret title="The token" secret={secret.value} />
    </>
  );
}
