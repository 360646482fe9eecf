/** Events of a job as sentences, and attempts as spans of time. */
import type { Schemas } from "../api/client";

type Event = Schemas["EventView"];
type Attempt = Schemas["AttemptView"];

export function describeEvent({ kind, data, user }: Event): string {
  const by = user === null ? "" : ` by ${user}`;
  const at = (name: string) => String(data[name] ?? "");
  if (kind === "state") {
    const reason = data.reason ? ` (${at("reason")})` : "";
    return `${at("from")} → ${at("to")}${reason}${by}`;
  }
  const details = Object.entries(data)
    .filter(([, value]) => value !== null && value !== "")
    .map(([name, value]) => `${name} ${typeof value === "string" ? value : JSON.stringify(value)}`);
  return [kind.replaceAll("-", " "), ...details].join(", ").replace(", ", ": ") + by;
}

export interface Span {
  kind: "wait" | "start" | "train";
  label: string;
  from: number;
  to: number;
}

/** When the job waited, started and trained, in milliseconds since 1970. */
export function spansOf(
  created: string,
  finished: string | null,
  attempts: readonly Attempt[],
  now: number,
): Span[] {
  const end = finished ? Date.parse(finished) : now;
  const spans: Span[] = [];
  let free = Date.parse(created);
  for (const attempt of attempts) {
    const [begin, ended] = [Date.parse(attempt.created_at), parsed(attempt.ended_at) ?? end];
    const step = parsed(attempt.first_step_at) ?? parsed(attempt.started_at) ?? ended;
    const workers = attempt.num_workers === 1 ? "worker" : "workers";
    const label = `attempt ${attempt.number} with ${attempt.num_workers} ${workers}`;
    if (begin > free) spans.push({ kind: "wait", label: "waiting", from: free, to: begin });
    spans.push({ kind: "start", label: `${label}: starting`, from: begin, to: step });
    if (ended > step)
      spans.push({
        kind: "train",
        label: `${label}: training${iterationsOf(attempt)}${attempt.reason ? `, then ${attempt.reason}` : ""}`,
        from: step,
        to: ended,
      });
    free = ended;
  }
  if (!finished && !attempts.some((attempt) => attempt.ended_at === null) && end > free)
    spans.push({ kind: "wait", label: "waiting", from: free, to: end });
  return spans;
}

function iterationsOf({ first_iteration, last_iteration }: Attempt): string {
  return last_iteration === null ? "" : ` from iteration ${first_iteration} to ${last_iteration}`;
}

function parsed(iso: string | null): number | null {
  return iso ? Date.parse(iso) : null;
}
