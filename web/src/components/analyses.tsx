/** Analyses of a job's checkpoints: their list and figures, a form for another one, one result. */
import { useSignal } from "@preact/signals";
import { api, type Job, read, type Schemas } from "../api/client";
import { messageOf, useAction } from "../lib/action";
import { type AnalysisJob, describeNumbers, KINDS, titleOf } from "../lib/analyses";
import { number, precise } from "../lib/format";
import { isFinished } from "../lib/jobs";
import { source, useLive } from "../lib/live";
import { usePolled } from "../lib/poll";
import { navigate } from "../lib/route";
import { maySubmit } from "../session";
import { Fact } from "./facts";
import { Field } from "./field";
import { EmptyNote, ErrorNote } from "./notes";
import { ScrollRegion } from "./scroll-region";
import { State } from "./state";

type Checkpoint = Schemas["CheckpointView"];

const MAX_ROWS = 500;

export function Analyses({ job, checkpoints }: { job: Job; checkpoints: Checkpoint[] }) {
  const live = useLive(source("/v1/jobs/{job_id}/analyses", { path: { job_id: job.id } }));
  const analyses = live.data.value?.analyses ?? [];
  if (checkpoints.length === 0 && analyses.length === 0) return null;
  return (
    <section class="section" aria-label="Analyses">
      <header>
        <h2>Analyses</h2>
        <span class="muted">{analyses.length}</span>
      </header>
      <ErrorNote error={live.error.value} />
      {analyses.length > 0 && <AnalysisTable analyses={analyses} />}
      <Figures analyses={analyses} />
      {maySubmit.value && checkpoints.length > 0 && (
        <NewAnalysis job={job} checkpoints={checkpoints} />
      )}
    </section>
  );
}

function AnalysisTable({ analyses }: { analyses: AnalysisJob[] }) {
  return (
    <ScrollRegion label="Results of analyses">
      <table>
        <thead>
          <tr>
            <th>Analysis</th>
            <th>State</th>
            <th class="number">Iteration</th>
            <th>Result</th>
          </tr>
        </thead>
        <tbody>
          {analyses.map((analysis) => (
            <tr key={analysis.job_id}>
              <td>
                <a href={`/jobs/${analysis.job_id}`}>{titleOf(analysis.kind)}</a>
              </td>
              <td>
                <State state={analysis.state} />
              </td>
              <td class="number">{number(analysis.iteration)}</td>
              <td>{describeNumbers(analysis.numbers)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </ScrollRegion>
  );
}

/** The newest of each kind. */
function Figures({ analyses }: { analyses: AnalysisJob[] }) {
  const finished = analyses.filter(({ numbers }) => numbers !== null);
  const newest = finished.filter(
    ({ kind, job_id }) => finished.find((other) => other.kind === kind)?.job_id === job_id,
  );
  return (
    <>
      {newest.map(({ job_id, kind }) => (
        <Figure key={job_id} jobId={job_id} kind={kind} />
      ))}
    </>
  );
}

function Figure({ jobId, kind }: { jobId: string; kind: string }) {
  return (
    <img
      class="figure"
      loading="lazy"
      src={`/v1/jobs/${jobId}/analysis?format=svg`}
      alt={`${titleOf(kind)}; its numbers are in the tables`}
    />
  );
}

function NewAnalysis({ job, checkpoints }: { job: Job; checkpoints: Checkpoint[] }) {
  const kind = useSignal("layer-responses");
  const checkpoint = useSignal("best");
  const { failure, run } = useAction();

  async function submit(event: Event) {
    event.preventDefault();
    const analysis = { kind: kind.value } as Schemas["AnalysisRequest"]["analysis"];
    const body = { job: job.id, checkpoint: checkpoint.value, analysis };
    await run(async () => {
      const created = await read(
        api.POST("/v1/analyses", { body: body as Schemas["AnalysisRequest"] }),
      );
      navigate(`/jobs/${created.id}`);
    });
  }

  return (
    <form class="row" onSubmit={submit}>
      <Field label="Kind" error={messageOf(failure.value)}>
        {(attributes) => (
          <select
            {...attributes}
            value={kind.value}
            onChange={(event) => (kind.value = event.currentTarget.value)}
          >
            {KINDS.map(([name, title]) => (
              <option value={name}>{title}</option>
            ))}
          </select>
        )}
      </Field>
      <Field label="Checkpoint">
        {(attributes) => (
          <select
            {...attributes}
            value={checkpoint.value}
            onChange={(event) => (checkpoint.value = event.currentTarget.value)}
          >
            <option value="best">best</option>
            <option value="newest">newest</option>
            {checkpoints.map(({ id, iteration }) => (
              <option value={id}>iteration {number(iteration)}</option>
            ))}
          </select>
        )}
      </Field>
      <button type="submit">Analyse</button>
    </form>
  );
}

/** Of an analysis, in the place of a training's curves. */
export function AnalysisResult({ job }: { job: Job }) {
  const hasResult = job.state === "succeeded";
  return (
    <section class="section" aria-label="Result">
      <header>
        <h2>Result</h2>
      </header>
      {hasResult ? (
        <Found job={job} />
      ) : (
        <EmptyNote title={isFinished(job) ? "No result." : "No result yet."}>
          {isFinished(job)
            ? "The analysis ended before it was complete."
            : "It appears when the analysis is complete; an attempt that dies starts it again."}
        </EmptyNote>
      )}
    </section>
  );
}

function Found({ job }: { job: Job }) {
  const params = { path: { job_id: job.id } };
  const polled = usePolled(
    `analysis:${job.id}`,
    () => read(api.GET("/v1/jobs/{job_id}/analysis", { params })),
    0,
  );
  const result = polled.data.value;
  const file = `/v1/jobs/${job.id}/analysis`;
  return (
    <>
      <ErrorNote error={polled.error.value} />
      {result && (
        <>
          <dl class="facts">
            {Object.entries(result.numbers).map(([name, value]) => (
              <Fact name={name.replaceAll("_", " ")}>{precise(value)}</Fact>
            ))}
          </dl>
          <Figure jobId={job.id} kind={job.kind} />
          <p class="muted">{(result.notes ?? []).join(". ")}</p>
          {(result.tables ?? []).map((table) => (
            <ResultTable table={table} />
          ))}
          <p>
            Figure as <a href={`${file}?format=svg`}>SVG</a>, <a href={`${file}?format=png`}>PNG</a>
            ; tables as CSV:{" "}
            {[...(result.tables ?? []).map(({ name }) => name), "numbers"].map((name, index) => (
              <>
                {index > 0 && ", "}
                <a href={`${file}?format=csv&table=${name}`} download>
                  {name}
                </a>
              </>
            ))}
          </p>
        </>
      )}
    </>
  );
}

function ResultTable({ table }: { table: Schemas["ResultTable"] }) {
  return (
    <details>
      <summary>
        {table.name.replaceAll("_", " ")} ({number(table.rows.length)} rows)
      </summary>
      {table.rows.length > MAX_ROWS && (
        <p class="muted">The first {number(MAX_ROWS)}; the CSV has all.</p>
      )}
      <ScrollRegion label={table.name}>
        <table>
          <thead>
            <tr>
              {table.columns.map((column) => (
                <th>{column.replaceAll("_", " ")}</th>
              ))}
            </tr>
          </thead>
          <tbody>
            {table.rows.slice(0, MAX_ROWS).map((row) => (
              <tr>
                {row.map((cell) => (
                  <td class={typeof cell === "number" ? "number" : ""}>
                    {typeof cell === "string" ? cell : precise(cell)}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </ScrollRegion>
    </details>
  );
}
