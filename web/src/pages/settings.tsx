/** The person's role, tokens, alerts, and webhooks with their deliveries. */
import { useSignal } from "@preact/signals";
import { api, read, type Schemas } from "../api/client";
import { Alerts } from "../components/alerts";
import { Field } from "../components/field";
import { NewSecret } from "../components/new-secret";
import { EmptyNote, ErrorNote } from "../components/notes";
import { Receiver } from "../components/receiver";
import { Shares } from "../components/shares";
import { Tokens } from "../components/tokens";
import { messageOf, useAction } from "../lib/action";
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
  const { failure, run } = useAction();
  const secret = useSignal<string | null>(null);

  async function add(event: SubmitEvent) {
    event.preventDefault();
    await run(async () => {
      const body = { url: url.value, states: [] };
      secret.value = (await read(api.POST("/v1/webhooks", { body }))).secret;
      url.value = "";
      onAdded();
    });
  }

  return (
    <>
      <form class="row" onSubmit={add}>
        <Field
          label="URL"
          error={messageOf(failure.value)}
          hint="called for each final state of a job"
        >
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
      <NewSecret title="The secret that signs its deliveries" secret={secret.value} />
    </>
  );
}

function WebhookNote({ webhook, onChange }: { webhook: Webhook; onChange: () => void }) {
  const params = { path: { webhook_id: webhook.id } };
  return (
    <Receiver
      id={webhook.id}
      name={`webhook ${webhook.url}`}
      readDeliveries={() => read(api.GET("/v1/webhooks/{webhook_id}/deliveries", { params }))}
      test={() => read(api.POST("/v1/webhooks/{webhook_id}/ping", { params }))}
      remove={() => read(api.DELETE("/v1/webhooks/{webhook_id}", { params }))}
      onChange={onChange}
    >
      <code>{webhook.url}</code>
      <span class="muted">
        {webhook.states.join(", ") || "final states"}, added {time(webhook.created_at)} by{" "}
        {webhook.user}
      </span>
    </Receiver>
  );
}
