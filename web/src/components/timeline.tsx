/** What happened to a job: attempts and checkpoints on one line of time, and its events. */
import type { Schemas } from "../api/client";
import { describeEvent, spansOf } from "../lib/events";
import { duration, time } from "../lib/format";

interface Properties {
  job: Schemas["JobView"];
  attempts: Schemas["AttemptView"][];
  events: Schemas["EventView"][];
  checkpoints: Schemas["CheckpointView"][];
}

export function Timeline({ job, attempts, events, checkpoints }: Properties) {
  const spans = spansOf(job.created_at, job.finished_at, attempts, Date.now());
  const start = Date.parse(job.created_at);
  const end = Math.max(start + 1, ...spans.map((span) => span.to));
  const percentOf = (at: number) => `${(100 * (at - start)) / (end - start)}%`;
  return (
    <section class="section" aria-label="Time line">
      <header>
        <h2>Time line</h2>
        <span class="muted">
          {time(job.created_at)} to {job.finished_at ? time(job.finished_at) : "now"},{" "}
          {duration((end - start) / 1000)}
        </span>
      </header>
      <div
        class="timeline"
        role="img"
        aria-label={
          spans
            .map((span) => `${span.label} ${duration((span.to - span.from) / 1000)}`)
            .join("; ") || "No time has passed."
        }
      >
        {spans.map((span) => (
          <span
            class={`span ${span.kind}`}
            title={`${span.label}, ${duration((span.to - span.from) / 1000)}`}
            style={{
              left: percentOf(span.from),
              width: `${(100 * (span.to - span.from)) / (end - start)}%`,
            }}
          />
        ))}
        {checkpoints.map((checkpoint) => (
          <span
            class="mark"
            title={`checkpoint at iteration ${checkpoint.iteration}`}
            style={{ left: percentOf(Date.parse(checkpoint.created_at)) }}
          />
        ))}
      </div>
      <ul class="legend">
        <li>
          <span class="swatch wait" /> waiting
        </li>
        <li>
          <span class="swatch start" /> starting
        </li>
        <li>
          <span class="swatch train" /> training
        </li>
        <li>
          <span class="swatch mark" /> checkpoint
        </li>
      </ul>
      <details>
        <summary>{events.length} events</summary>
        <ol class="events">
          {events.toReversed().map((event) => (
            <li>
              <time dateTime={event.at}>{new Date(event.at).toLocaleTimeString("en-GB")}</time>{" "}
              {describeEvent(event)}
            </li>
          ))}
        </ol>
      </details>
    </section>
  );
}
