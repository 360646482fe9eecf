/** What happened to a job: attempts and checkpoints on one line of time, and its events. */
import type { Schemas } from "../api/client";
import { describeEvent, spansOf } from "../lib/events";
import { duration, time } from "../lib/format";
import { ScrollRegion } from "./scroll-region";

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
      <Attempts attempts={attempts} />
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

function Attempts({ attempts }: { attempts: Properties["attempts"] }) {
  if (attempts.length === 0) return null;
  return (
    <details>
      <summary>{attempts.length === 1 ? "1 attempt" : `${attempts.length} attempts`}</summary>
      <ScrollRegion label="Attempts" isCompact>
        <table>
          <thead>
            <tr>
              <th>Attempt</th>
              <th>State</th>
              <th>Created</th>
              <th>First step</th>
              <th>Ended</th>
              <th>Reason</th>
              <th>Message</th>
            </tr>
          </thead>
          <tbody>
            {attempts.map((attempt) => (
              <tr>
                <th scope="row">{attempt.number}</th>
                <td>{attempt.state}</td>
                <td>{time(attempt.created_at)}</td>
                <td>{time(attempt.first_step_at)}</td>
                <td>{time(attempt.ended_at)}</td>
                <td>{attempt.reason ?? "–"}</td>
                <td class="clip" title={attempt.message ?? ""}>
                  {attempt.message}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </ScrollRegion>
    </details>
  );
}
