/** The newest log lines of a job, with a search. */
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { Schemas } from "../api/client";
import { source, useLive } from "../lib/live";
import { ErrorNote } from "./notes";

type LogList = Schemas["LogList"];

const KEPT = 5000;
const SHOWN = 1000;

export function Logs({ jobId }: { jobId: string }) {
  const params = { path: { job_id: jobId }, query: { tail: KEPT, limit: KEPT } };
  const logs = useLive(source("/v1/jobs/{job_id}/logs", params, continuedLog));
  const search = useSignal("");
  const onlyProblems = useSignal(false);
  const box = useRef<HTMLElement>(null);
  const isAtEnd = useRef(true);
  const wanted = search.value.toLowerCase();
  const lines = (logs.data.value?.lines ?? []).filter(
    (line) =>
      (!onlyProblems.value || line.level === "warning" || line.level === "error") &&
      line.message.toLowerCase().includes(wanted),
  );

  useEffect(() => {
    if (box.current && isAtEnd.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lines.length]);

  return (
    <section class="section" aria-label="Log">
      <header>
        <h2>Log</h2>
        <input
          type="search"
          aria-label="Search the log"
          placeholder="Search"
          onInput={(event) => {
            search.value = event.currentTarget.value;
          }}
        />
        <label class="check">
          <input
            type="checkbox"
            onChange={(event) => {
              onlyProblems.value = event.currentTarget.checked;
            }}
          />
          Only warnings and errors
        </label>
        <span class="muted">{lines.length === 1 ? "1 line" : `${lines.length} lines`}</span>
      </header>
      <ErrorNote error={logs.error.value} />
      <section
        class="scroll log mono"
        ref={box}
        // biome-ignore lint/a11y/noNoninteractiveTabindex: a region that scrolls must take the focus
        tabIndex={0}
        aria-label="Log lines"
        onScroll={(event) => {
          const { scrollTop, scrollHeight, clientHeight } = event.currentTarget;
          isAtEnd.current = scrollTop + clientHeight > scrollHeight - 8;
        }}
      >
        {lines.length === 0 && <p class="muted">No lines.</p>}
        {lines.slice(-SHOWN).map((line) => (
          <div key={line.number} class={line.level}>
            <span class="muted">{new Date(line.at).toLocaleTimeString("en-GB")}</span>{" "}
            {line.level !== "info" && <strong>{line.level}: </strong>}
            {line.message}
          </div>
        ))}
      </section>
    </section>
  );
}

function continuedLog(before: LogList | undefined, next: LogList): LogList {
  return { ...next, lines: [...(before?.lines ?? []), ...next.lines].slice(-KEPT) };
}
