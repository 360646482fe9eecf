/** The person's alerts: added, tested and deleted, with their deliveries. */
import { useSignal } from "@preact/signals";
import { api, read, type Schemas } from "../api/client";
import { messageOf, useAction } from "../lib/action";
import { time } from "../lib/format";
import { usePolled } from "../lib/poll";
import { mayChange, session } from "../session";
import { Field } from "./field";
import { tagsOf } from "./labels";
import { NewSecret } from "./new-secret";
import { EmptyNote, ErrorNote } from "./notes";
import { Receiver } from "./receiver";

type Alert = Schemas["AlertView"];
type Channel = Schemas["AlertChannel"];
type Condition = Schemas["AlertCondition"];

const CHANNELS: [Channel, string][] = [
  ["email", "e-mail"],
  ["slack", "Slack"],
  ["discord", "Discord"],
  ["webhook", "webhook"],
];
const CONDITIONS: [Condition, string][] = [
  ["succeeded", "succeeded"],
  ["failed", "failed"],
  ["held", "held by the service"],
  ["diverged", "diverged"],
  ["silent", "no progress"],
  ["plateau", "plateau"],
  ["quota", "quota at 90 %"],
  ["queue-stuck", "queue stuck"],
];

export function Alerts() {
  const polled = usePolled("alerts", () => read(api.GET("/v1/alerts")), 0);
  const found = polled.data.value?.alerts;
  return (
    <section class="section" aria-label="Alerts">
      <h2>Alerts</h2>
      <ErrorNote error={polled.error.value} />
      {found?.length === 0 && (
        <EmptyNote title="No alerts.">
          An alert notifies you by e-mail, Slack, Discord or a webhook when something happens to
          your jobs.
        </EmptyNote>
      )}
      {found?.map((alert) => (
        <AlertNote key={alert.id} alert={alert} onChange={polled.refresh} />
      ))}
      {mayChange(session.value?.user ?? "") && <NewAlert onAdded={polled.refresh} />}
    </section>
  );
}

function NewAlert({ onAdded }: { onAdded: () => void }) {
  const { failure, run } = useAction();
  const secret = useSignal("");

  async function add(event: SubmitEvent) {
    event.preventDefault();
    const target = event.currentTarget as HTMLFormElement;
    const form = new FormData(target);
    const body = {
      channel: String(form.get("channel")) as Channel,
      target: String(form.get("target")).trim(),
      conditions: form.getAll("condition").map(String) as Condition[],
      tags: tagsOf(String(form.get("tags"))),
      all_jobs: form.has("all_jobs"),
      minutes: Number(form.get("minutes")),
      evaluations: Number(form.get("evaluations")),
    };
    await run(async () => {
      secret.value = (await read(api.POST("/v1/alerts", { body }))).secret;
      target.reset();
      onAdded();
    });
  }

  return (
    <>
      <form onSubmit={add}>
        <div class="row">
          <Field label="Notify by">
            {(attributes) => (
              <select {...attributes} name="channel">
                {CHANNELS.map(([channel, title]) => (
                  <option value={channel}>{title}</option>
                ))}
              </select>
            )}
          </Field>
          <Field label="Address" error={messageOf(failure.value)}>
            {(attributes) => (
              <input
                {...attributes}
                name="target"
                type="text"
                size={40}
                required
                placeholder="ann@example.org or https://…"
              />
            )}
          </Field>
          <Field label="Of tags" hint="empty: all">
            {(attributes) => <input {...attributes} name="tags" type="text" />}
          </Field>
          <Field label="Minutes" hint="without progress">
            {(attributes) => (
              <input
                {...attributes}
                name="minutes"
                type="number"
                min={1}
                max={10080}
                defaultValue={5}
              />
            )}
          </Field>
          <Field label="Evaluations" hint="of a plateau">
            {(attributes) => (
              <input
                {...attributes}
                name="evaluations"
                type="number"
                min={2}
                max={1000}
                defaultValue={10}
              />
            )}
          </Field>
        </div>
        <fieldset class="row">
          <legend>When a job, or what it needs</legend>
          {CONDITIONS.map(([condition, title]) => (
            <label class="check">
              <input
                type="checkbox"
                name="condition"
                value={condition}
                defaultChecked={condition === "failed"}
              />
              {title}
            </label>
          ))}
        </fieldset>
        <div class="row">
          {session.value?.role === "admin" && (
            <label class="check">
              <input type="checkbox" name="all_jobs" />
              The jobs of all people
            </label>
          )}
          <button type="submit">Add an alert</button>
        </div>
      </form>
      <NewSecret title="The secret that signs its deliveries" secret={secret.value} />
    </>
  );
}

function AlertNote({ alert, onChange }: { alert: Alert; onChange: () => void }) {
  const params = { path: { alert_id: alert.id } };
  return (
    <Receiver
      id={alert.id}
      name={`alert to ${alert.target}`}
      readDeliveries={() => read(api.GET("/v1/alerts/{alert_id}/deliveries", { params }))}
      test={() => read(api.POST("/v1/alerts/{alert_id}/test", { params }))}
      remove={() => read(api.DELETE("/v1/alerts/{alert_id}", { params }))}
      onChange={onChange}
    >
      <span>
        {alert.channel} <code>{alert.target}</code>
      </span>
      <span class="muted">
        {alert.conditions.join(", ")}
        {alert.tags && alert.tags.length > 0 && ` of ${alert.tags.join(", ")}`}
        {alert.all_jobs && " of all people"}, added {time(alert.created_at)} by {alert.user}
      </span>
    </Receiver>
  );
}
