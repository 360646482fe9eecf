/** One job: its curves, what happened, its log, its checkpoints and its spec. */
import { api, type Job, read, type Schemas } from "../api/client";
import { Analyses, AnalysisResult } from "../components/analyses";
import { ClassNames } from "../components/class-names";
import { Confusion } from "../components/confusion";
import { Curves } from "../components/curves";
import { Fact } from "../components/facts";
import { Labels } from "../components/labels";
import { Lineage } from "../components/lineage";
import { Logs } from "../components/logs";
import { EmptyNote, ErrorNote } from "../components/notes";
import { Predict } from "../components/predict";
import { ScrollRegion } from "../components/scroll-region";
import { Share } from "../components/share";
import { State } from "../components/state";
import { Timeline } from "../components/timeline";
import { useAction } from "../lib/action";
import { isAnalysis } from "../lib/analyses";
import { exported } from "../lib/exported";
import {
  amount,
  bytes,
  count,
  duration,
  number,
  percent,
  secondsBetween,
  time,
} from "../lib/format";
import { flatten, isFinished, sorted, testError, trainError } from "../lib/jobs";
import { inheritedOf } from "../lib/lineage";
import { source, useLive } from "../lib/live";
import { addressOfModel, modelOf } from "../lib/models";
import { navigate } from "../lib/route";
import { useTitle } from "../lib/title";
import { mayChange, maySubmit, session } from "../session";

type Command = "cancel" | "pause" | "resume" | "hold" | "release";
type Checkpoint = Schemas["CheckpointView"];

/** Formats of a download by the part of the checkpoint; the training state is no download. */
const FORMATS: Record<string, [string, string] | undefined> = {
  weights: ["safetensors", "safetensors"],
  pt: ["pt", "pt"],
  onnx: ["onnx", "ONNX"],
  "onnx-image": ["onnx-image", "ONNX for images"],
  pt2: ["pt2", "pt2"],
  "pt2-image": ["pt2-image", "pt2 for images"],
  card: ["card", "model card"],
  predictions: ["predictions", "predictions"],
};

export function JobPage({ id }: { id: string }) {
  const params = { path: { job_id: id } };
  const live = useLive(source("/v1/jobs/{job_id}", params));
  const attempts = useLive(source("/v1/jobs/{job_id}/attempts", params));
  const events = useLive(source("/v1/jobs/{job_id}/events", params, continuedEvents));
  const checkpoints = useLive(source("/v1/jobs/{job_id}/checkpoints", params));
  const lineage = useLive(source("/v1/jobs/{job_id}/lineage", params));
  const envelope = useLive(source("/v1/jobs/{job_id}/envelope", params));
  const job = live.data.value;
  useTitle(job?.name ?? "Job");
  if (!job)
    return (
      <>
        <h1>Job</h1>
        <ErrorNote error={live.error.value} />
        {live.error.value?.status === 404 && (
          <EmptyNote title="It may have been deleted.">
            <a href="/">Go to the jobs</a>
          </EmptyNote>
        )}
      </>
    );
  const family = lineage.data.value?.jobs ?? [];
  const isContinued = job.spec.start_from?.mode === "continue";
  return (
    <>
      <div class="head">
        <h1>{job.name}</h1>
        <State state={job.state} />
        <Commands job={job} />
      </div>
      <ErrorNote error={live.error.value} />
      <Summary job={job} envelope={envelope.data.value} />
      <Labels job={job} />
      {isAnalysis(job) && <AnalysisResult job={job} />}
      {!isAnalysis(job) && (!isContinued || lineage.data.value || lineage.error.value) && (
        <Curves job={job} inherited={inheritedOf(family, job.id)} envelope={envelope.data.value} />
      )}
      <Timeline
        job={job}
        attempts={attempts.data.value?.attempts ?? []}
        events={events.data.value?.events ?? []}
        checkpoints={checkpoints.data.value?.checkpoints ?? []}
      />
      {!isAnalysis(job) && (
        <>
          <Lineage jobs={family} jobId={job.id} />
          <Checkpoints job={job} checkpoints={checkpoints.data.value?.checkpoints ?? []} />
          <Analyses job={job} checkpoints={checkpoints.data.value?.checkpoints ?? []} />
        </>
      )}
      {!exported &&
        !session.value?.shared &&
        checkpoints.data.value?.checkpoints.some(({ parts }) => parts["onnx-image"]) && (
          <Predict jobId={job.id} />
        )}
      {!exported && checkpoints.data.value?.checkpoints.some(({ parts }) => parts.predictions) && (
        <Confusion jobId={job.id} />
      )}
      {!session.value?.shared && (
        <>
          <Logs jobId={job.id} />
          <ClassNames dataset={job.spec.dataset} />
        </>
      )}
      <Spec job={job} />
    </>
  );
}

function continuedEvents(
  before: Schemas["EventList"] | undefined,
  next: Schemas["EventList"],
): Schemas["EventList"] {
  return { ...next, events: [...(before?.events ?? []), ...next.events] };
}

function Commands({ job }: { job: Job }) {
  const { failure, run } = useAction();
  const isOwn = mayChange(job.user);
  const params = { path: { job_id: job.id } };

  async function send(command: Command) {
    if (command === "cancel" && !confirm(`Cancel ${job.name}?`)) return;
    await run(() => read(api.POST(`/v1/jobs/{job_id}/${command}`, { params })));
  }

  async function remove() {
    if (!confirm(`Delete ${job.name} with its metrics, log and checkpoints?`)) return;
    if (await run(() => read(api.DELETE("/v1/jobs/{job_id}", { params })))) navigate("/");
  }

  return (
    <div class="end">
      {failure.value && (
        <span class="bad" role="alert">
          {failure.value.message}
        </span>
      )}
      {isOwn &&
        commandsOf(job).map(([command, title]) => (
          <button
            type="button"
            class={command === "cancel" ? "danger" : ""}
            disabled={job.stop_requested !== null}
            onClick={() => send(command)}
          >
            {title}
          </button>
        ))}
      {isOwn && isFinished(job) && (
        <button type="button" class="danger" onClick={remove}>
          Delete
        </button>
      )}
      {!exported && (
        <a class="button" href={`/v1/jobs/${job.id}/export`} download>
          Save as HTML
        </a>
      )}
      {isOwn && <Share subject={{ jobs: [job.id] }} />}
      {isAnalysis(job) ? (
        <a class="button" href={`/jobs/${job.spec.start_from?.job}`}>
          The analysed job
        </a>
      ) : (
        <>
          <a class="button" href={`/compare?job=${job.id}`}>
            Compare
          </a>
          {maySubmit.value && (
            <a class="button" href={`/submit?from=${job.id}`}>
              Clone and change
            </a>
          )}
        </>
      )}
    </div>
  );
}

function commandsOf(job: Job): [Command, string][] {
  if (isFinished(job)) return [];
  const cancel: [Command, string] = ["cancel", "Cancel"];
  if (job.state === "paused") return [["resume", "Resume"], cancel];
  if (job.state === "held") return [["release", "Release"], cancel];
  if (job.state === "queued" || job.state === "blocked") return [["hold", "Hold"], cancel];
  return [["pause", "Pause"], cancel];
}

function Summary(properties: { job: Job; envelope: Schemas["EnvelopeView"] | undefined }) {
  const { job, envelope } = properties;
  const { progress, waiting, spec } = job;
  return (
    <>
      {waiting && (
        <div class="note">
          <p>
            {waiting.position !== null && `Position ${waiting.position}: `}
            {waiting.message}
          </p>
          {waiting.fair_share && <p class="muted">Loses {waiting.fair_share.message}.</p>}
          {waiting.starts_p50 && (
            <p class="muted">
              Starts about {time(waiting.starts_p50)}, at the latest about{" "}
              {time(waiting.starts_p90)}.
            </p>
          )}
        </div>
      )}
      {job.reason === "budget-reached" && (
        <div class="note">
          <p>
            {job.reason}: {job.message}
          </p>
        </div>
      )}
      {job.state === "failed" && (
        <div class="note error">
          <p>
            {job.reason}
            {job.message && `: ${job.message}`}
          </p>
          <p class="muted">The end of the log may say more.</p>
        </div>
      )}
      {job.bottleneck && (
        <div class="note">
          <p>{job.bottleneck.message}</p>
          <p class="muted">The chart “Time of a step” shows how this changes.</p>
        </div>
      )}
      {envelope?.verdict === "left" && (
        <div class="note">
          <p>The curve {envelope.message}.</p>
        </div>
      )}
      <dl class="facts">
        {progress && !isFinished(job) && (
          <>
            <Fact name="Progress">
              <progress value={progress.percent} max={100} aria-label="Progress" />{" "}
              {number(progress.percent)} %
            </Fact>
            <Fact name="Remaining">{duration(progress.eta_seconds)}</Fact>
          </>
        )}
        {isAnalysis(job) ? (
          <Fact name="Kind">{job.kind}</Fact>
        ) : (
          <>
            <Fact name="Test error">
              <strong>{percent(testError(job))}</strong>
            </Fact>
            <Fact name="Train error">{percent(trainError(job))}</Fact>
            <Fact name="Images/s">{amount(progress?.images_per_second)}</Fact>
          </>
        )}
        {envelope?.verdict === "within" && (
          <Fact name="Curve">
            <span title={envelope.message}>normal, as {envelope.job_ids.length} other seeds</span>
          </Fact>
        )}
        {progress && (
          <Fact name={isAnalysis(job) ? "Steps" : "Iterations"}>
            {number(progress.iteration)} of {number(progress.iterations)}
          </Fact>
        )}
        {job.finished_at && (
          <Fact name="Duration">{duration(secondsBetween(job.started_at, job.finished_at))}</Fact>
        )}
        <Fact name="Network">{job.network}</Fact>
        <Fact name="Dataset">{spec.dataset}</Fact>
        <Fact name="Seed">{spec.seed}</Fact>
        <Fact name="Parameters">{count(job.parameters)}</Fact>
        <Fact name="Device">
          {job.environment ? `${job.environment.num_workers} × ${job.environment.device}` : "–"}
        </Fact>
        <Fact name="Attempts">{job.attempts}</Fact>
        <Fact name="User">{job.user}</Fact>
        <Fact name="Submitted">{time(job.created_at)}</Fact>
        {spec.start_from?.weights && <Fact name="Weights from">{spec.start_from.weights}</Fact>}
        {spec.tags.length > 0 && <Fact name="Tags">{spec.tags.join(", ")}</Fact>}
        <Fact name="Id">
          <code>{job.id}</code>
        </Fact>
      </dl>
    </>
  );
}

function Checkpoints({ job, checkpoints }: { job: Job; checkpoints: Checkpoint[] }) {
  const [best] = sorted(checkpoints, (checkpoint) => checkpoint.selection_error, false);
  const selectBy = job.spec.recipe?.select_by;
  const isNamed = checkpoints.some(({ names }) => names.length > 0);
  return (
    <section class="section">
      <header>
        <h2>Checkpoints</h2>
        <span class="muted">{checkpoints.length}</span>
        {maySubmit.value && checkpoints.length > 0 && (
          <a href={`/models?job=${job.id}`}>Register as a model</a>
        )}
        {job.state === "succeeded" && (
          <a href={`/v1/jobs/${job.id}/result-card`} download={`${job.id}.card.json`}>
            Signed result card
          </a>
        )}
      </header>
      {checkpoints.length === 0 ? (
        <EmptyNote title={isFinished(job) ? "No checkpoint." : "No checkpoint yet."}>
          {isFinished(job)
            ? "The job ended before its first one, or they were deleted."
            : "The recipe says how often they are saved."}
        </EmptyNote>
      ) : (
        <ScrollRegion label="Checkpoints">
          <table>
            <thead>
              <tr>
                <th class="number">Iteration</th>
                {isNamed && <th>Names</th>}
                <th class="number">Test error</th>
                <th class="number wide">Size</th>
                <th class="wide">Saved</th>
                <th>Downloads</th>
              </tr>
            </thead>
            <tbody>
              {checkpoints.map((checkpoint) => (
                <tr key={checkpoint.id}>
                  <td class="number">{number(checkpoint.iteration)}</td>
                  {isNamed && (
                    <td class="downloads">
                      {checkpoint.names.map((name) =>
                        exported || session.value?.shared ? (
                          name
                        ) : (
                          <a href={addressOfModel(modelOf(name))}>{name}</a>
                        ),
                      )}
                    </td>
                  )}
                  <td class="number">
                    {checkpoint === best && best.selection_error !== null && (
                      <span class="good">best by {selectBy} error </span>
                    )}
                    {percent(checkpoint.test_error)}
                  </td>
                  <td class="number wide">{bytes(checkpoint.size_bytes)}</td>
                  <td class="wide">{time(checkpoint.created_at)}</td>
                  <td class="downloads">
                    {Object.keys(checkpoint.parts).map((part) => {
                      const format = FORMATS[part];
                      if (!format || session.value?.shared) return null;
                      const file = `/v1/jobs/${job.id}/checkpoints/${checkpoint.id}/weights`;
                      return (
                        <a href={`${file}?format=${format[0]}`} download>
                          {format[1]}
                        </a>
                      );
                    })}
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
        </ScrollRegion>
      )}
    </section>
  );
}

function Spec({ job }: { job: Job }) {
  return (
    <section class="section">
      <details>
        <summary>
          <h2 class="inline">Spec</h2>
        </summary>
        <ScrollRegion label="Spec">
          <table class="mono">
            <tbody>
              {Object.entries(flatten(job.spec)).map(([field, value]) => (
                <tr>
                  <th scope="row">{field}</th>
                  <td>{value}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </ScrollRegion>
      </details>
    </section>
  );
}
