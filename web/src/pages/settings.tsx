/** The person's role, tokens, alerts, and webhooks with their deliveries. */
import { useSignal } from "@preact/signals";
import { ApiError, api, read, type Schemas } from "../api/client";
import { Alerts } from "../components/alerts";
import { Deliveries } from "../components/deliveries";
import { Field } from "../components/field";
import { EmptyNote, ErrorNote } from "../components/notes";
import { Shares } from "../components/shares";
import { Tokens } from "../components/tokens";
import { time } from "../lib/format";
import { usePolled } from "../lib/poll";
import { useTitle } from "../lib/title";
import { mayChange, session } from "../session";

type Webhook = Schemas["WebhookView"];

const RIGHTS: Record<Schemas["Role"], string> = {
  viewer: "A viewer reads.",
  member: "A member submits, and changes what is his own.",
  admin: "An admin changes what belongs to anybody, and manages people.",
};

export function SettingsPage() {
  useTitle("Settings");
  const polled = usePolled("webhooks", () => read(api.GET("/v1/webhooks")), 0);
  const webhooks = polled.data.value?.webhooks;
  const isLimited = session.value?.scope !== "full" || session.value.tag !== null;
  return (
    <>
      <h1>Settings</h1>
      <section class="section">
        <h2>Session</h2>
        <p>
          Signed in as <strong>{session.value?.user}</strong>, {session.value?.role}
          {session.value?.group && `, in group ${session.value.group}`}.{" "}
          {session.value && RIGHTS[session.value.role]}
        </p>
        {isLimited && (
          <p class="muted">
            This sign-in is limited to {session.value?.scope}
            {session.value?.tag && ` and jobs with the tag ${session.value.tag}`}, as its token is.
          </p>
        )}
      </section>
      {!isLimited && <Tokens />}
      {!isLimited && <Shares />}
      <Alerts />
      <section class="section">
        <h2>Webhooks</h2>
        <ErrorNote error={polled.error.value} />
        {webhooks?.length === 0 && (
          <EmptyNote title="No webhooks.">
            A webhook is called when the state of a job changes, for example to notify a chat.
          </EmptyNote>
        )}
        {webhooks?.map((webhook) => (
          <WebhookNote key={webhook.id} webhook={webhook} onChange={polled.refresh} />
        ))}
        {mayChange(session.value?.user ?? "") && <NewWebhook onAdded={polled.refresh} />}
      </section>
    </>
  );
}

function NewWebhook({ onAdded }: { onAdded: () => void }) {
  const url = useSignal("");
  const error = useSignal<string | undefined>(undefined);
  const secret = useSignal<string | null>(null);

  async function add(event: SubmitEvent) {
    event.preventDefault();
    try {
      const body = { url: url.value, states: [] };
      secret.value = (await read(api.POST("/v1/webhooks", { body }))).secret;
      error.value = undefined;
      url.value = "";
      onAdded();
    } catch (failure) {
      if (!(failure instanceof ApiError)) throw failure;
      error.value = failure.errors[0]?.message ?? failure.message;
    }
  }

  return (
    <>
      <form class="row" onSubmit={add}>
        <Field label="URL" error={error.value} hint="called for each final state of a job">
          {(attributes) => (
            <input
              {...attributes}
              type="text"
              size={48}
              required
              value={url.value}
              onInput={(event) => {
                url.value = event.currentTarget.value;
              }}
            />
          )}
        </Field>
        <button type="submit">Add a webhook</button>
      </form>
      {secret.value && (
        <div class="note" role="status">
          <p>
            The secret that signs its deliveries: <code>{secret.value}</code>
          </p>
          <p class="muted">Copy it now: it is not shown again.</p>
        </div>
      )}
    </>
  );
}

function WebhookNote({ webhook, onChange }: { webhook: Webhook; onChange: () => void }) {
  const params = { path: { webhook_id: webhook.id } };
  const failure = useSignal<ApiError | null>(null);
  const log = usePolled(
    webhook.id,
    () => read(api.GET("/v1/webhooks/{webhook_id}/deliveries", { params })),
    5,
  );

  async function attempt(action: () => Promise<unknown>) {
    try {
      await action();
      failure.value = null;
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      failure.value = error;
    }
    onChange();
  }

  return (
    <div class="note">
      <div class="row">
        <code>{webhook.url}</code>
        <span class="muted">
          {webhook.states.join(", ") || "final states"}, added {time(webhook.created_at)} by{" "}
          {webhook.user}
        </span>
        <button
          type="button"
          onClick={() =>
            attempt(async () => {
              await read(api.POST("/v1/webhooks/{webhook_id}/ping", { params }));
              log.refresh();
            })
          }
        >
          Send a test
        </button>
        <button
          type="button"
          class="danger"
          onClick={() => {
            if (confirm(`Delete the webhook ${webhook.url}?`))
              attempt(() => read(api.DELETE("/v1/webhooks/{webhook_id}", { params })));
          }}
        >
          Delete
        </button>
      </div>
      <ErrorNote error={failure.value ?? log.error.value} />
      <Deliveries deliveries={log.data.value?.deliveries ?? []} />
    </div>
  );
}
