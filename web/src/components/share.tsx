/** Makes a link that shows this page without an account, until it expires. */
import { useSignal } from "@preact/signals";
import { api, read, type Schemas } from "../api/client";
import { messageOf, useAction } from "../lib/action";
import { time } from "../lib/format";
import { Field } from "./field";

interface Subject {
  jobs?: string[];
  study?: string;
}

const DAYS = 30;

export function Share({ subject }: { subject: Subject }) {
  const { failure, run } = useAction();
  const created = useSignal<Schemas["NewShareView"] | null>(null);

  async function create(event: SubmitEvent) {
    event.preventDefault();
    const days = Number(new FormData(event.currentTarget as HTMLFormElement).get("days"));
    await run(async () => {
      const expires_at = new Date(Date.now() + days * 86_400_000).toISOString();
      created.value = await read(
        api.POST("/v1/shares", { body: { jobs: [], ...subject, expires_at } }),
      );
    });
  }

  return (
    <details class="menu">
      <summary class="button">Share</summary>
      <form onSubmit={create}>
        <Field label="Days" error={messageOf(failure.value)} hint="until the link expires">
          {(attributes) => (
            <input
              {...attributes}
              name="days"
              type="number"
              min={1}
              max={366}
              defaultValue={DAYS}
            />
          )}
        </Field>
        <button type="submit">Create a link</button>
        {created.value && (
          <div role="status">
            <p>
              <code>{`${location.origin}/shared#${created.value.secret}`}</code>
            </p>
            <p class="muted">
              All who have it read this until {time(created.value.expires_at)}. Copy it now: it is
              not shown again. Settings lists and revokes links.
            </p>
          </div>
        )}
      </form>
    </details>
  );
}
