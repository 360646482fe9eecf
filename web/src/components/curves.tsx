/**
 * The curves of a job: a chart for each kind of series, with their controls in the address, and
 * smaller ones of its speed and machine.
 */
import { useMemo } from "preact/hooks";
import type { Job, Schemas } from "../api/client";
import { formatOf } from "../lib/axes";
import {
  AXES,
  type Axis,
  continued,
  envelopeLine,
  type Line,
  linesOf,
  type Metrics,
} from "../lib/curves";
import { DIAGNOSTIC_SERIES, diagnosticCharts } from "../lib/diagnostics";
import { number } from "../lib/format";
import { isFinished, isPlain } from "../lib/jobs";
import { cutAfter, type Inherited } from "../lib/lineage";
import { source, useLive } from "../lib/live";
import { query, setQuery } from "../lib/route";
import type { Range } from "../lib/zoom";
import { Chart } from "./chart";
import { EmptyNote, ErrorNote } from "./notes";

const BUCKETS = 500;

/** The charts in their order; series that none of them names get charts of their own. */
const CHARTS: [string, string[]][] = [
  ["Error, %", ["train/error", "test/error", "validation/error"]],
  ["Top-5 error, %", ["train/top5_error", "test/top5_error", "validation/top5_error"]],
  ["Loss", ["train/loss", "test/loss", "validation/loss"]],
  ["Learning rate", ["learning_rate"]],
  ["Images/s", ["images_per_second"]],
];

/**
 * `inherited`: the jobs whose run this one continues, drawn up to their checkpoints. `envelope`:
 * drawn behind the errors, by iteration.
 */
export function Curves(properties: {
  job: Job;
  inherited: readonly Inherited[];
  envelope: Schemas["EnvelopeView"] | undefined;
}) {
  const { job, inherited, envelope } = properties;
  const axis = (query.value.get("x") ?? "iteration") as Axis;
  const smoothing = Number(query.value.get("smooth") ?? "0.6");
  const isClipped = query.value.get("clip") === "20";
  const isLog = query.value.get("loss") === "log";
  const zoom = zoomOf(query.value);
  const ids = [job.id, ...inherited.map((source) => source.job.id)];
  const params = { query: { job: ids, x: axis, buckets: BUCKETS, ...zoom } };
  const metrics = useLive(source("/v1/metrics", params, continued));
  const data = metrics.data.value;
  const expected = useMemo(
    () => (axis === "iteration" && envelope ? envelopeLine(envelope) : []),
    [axis, envelope],
  );
  const charts = useMemo(
    () =>
      chartsOf(data, job, inherited, smoothing).map(([title, lines]): [string, Line[]] =>
        title === CHARTS[0]?.[0] ? [title, [...expected, ...lines]] : [title, lines],
      ),
    [data, smoothing, expected],
  );
  const diagnostics = useMemo(() => diagnosticCharts(data?.jobs[0]?.series ?? {}), [data]);
  const shared = {
    xLabel: AXES[axis],
    formatX: formatOf(axis),
    sync: "job",
    zoom,
    onZoom: setZoom,
  };
  return (
    <>
      <section class="section" aria-label="Curves">
        <header>
          <h2>Curves</h2>
          {charts.length > 0 && <Controls {...{ axis, smoothing, isClipped, isLog, zoom }} />}
        </header>
        <ErrorNote error={metrics.error.value} />
        {data &&
          charts.length === 0 &&
          (isFinished(job) ? (
            <EmptyNote title="No metrics.">The job ended before its first report.</EmptyNote>
          ) : (
            <EmptyNote title="No metrics yet.">
              They appear with the first report of the training.
            </EmptyNote>
          ))}
        <div class="charts">
          {charts.map(([title, lines]) => (
            <Chart
              key={title}
              title={title}
              lines={lines}
              {...shared}
              isLog={title === "Loss" && isLog}
              top={title.startsWith("Error") && isClipped ? 20 : undefined}
            />
          ))}
        </div>
      </section>
      {diagnostics.length > 0 && (
        <section class="section" aria-label="Speed and machine">
          <header>
            <h2>Speed and machine</h2>
          </header>
          <div class="charts small">
            {diagnostics.map(([title, lines]) => (
              <Chart key={title} title={title} lines={lines} {...shared} height={150} />
            ))}
          </div>
        </section>
      )}
    </>
  );
}

function chartsOf(
  data: Metrics | undefined,
  job: Job,
  inherited: readonly Inherited[],
  smoothing: number,
): [string, Line[]][] {
  const [own, ...sources] = data?.jobs.map(({ series }) => series) ?? [];
  const found = own ?? {};
  const all = Object.assign({}, ...sources, found) as typeof found;
  const named = new Set(CHARTS.flatMap(([, series]) => series));
  const others = Map.groupBy(
    Object.keys(all).filter((series) => !named.has(series) && !DIAGNOSTIC_SERIES.has(series)),
    (series) => series.split("/")[0] ?? series,
  );
  const color = isPlain(job) ? "--plain" : "--residual";
  return [...CHARTS, ...others]
    .map(([title, series]): [string, Line[]] => [
      title,
      series.flatMap((name) => {
        const isComplete = others.has(title) || title.includes("/s") || series.length === 1;
        const label = isComplete ? name : (name.split("/")[0] ?? "");
        const past = inherited.flatMap(({ job: source, until }, index): Line[] => {
          const buckets = sources[index]?.[name];
          const line =
            buckets && linesOf(label, name, cutAfter(buckets, until), { color, smoothing }).at(-1);
          if (!line || line.x.length === 0) return [];
          return [{ ...line, label: `${label} of ${source.name} to ${number(until)}`, pale: true }];
        });
        const buckets = found[name];
        return [...past, ...(buckets ? linesOf(label, name, buckets, { color, smoothing }) : [])];
      }),
    ])
    .filter(([, lines]) => lines.length > 0);
}

export function zoomOf(from: URLSearchParams): Range | null {
  if (!from.has("from") || !from.has("to")) return null;
  return { from: Number(from.get("from")), to: Number(from.get("to")) };
}

export function setZoom(range: Range | null): void {
  setQuery({ from: range && String(range.from), to: range && String(range.to) });
}

export function Controls(properties: {
  axis: Axis;
  smoothing: number;
  isClipped: boolean;
  isLog: boolean;
  zoom: Range | null;
}) {
  const { axis, smoothing, isClipped, isLog, zoom } = properties;
  return (
    <div class="row controls">
      <label class="check">
        Axis
        <select
          value={axis}
          onChange={(event) => setQuery({ x: event.currentTarget.value, from: null, to: null })}
        >
          {Object.entries(AXES).map(([value, title]) => (
            <option value={value}>{title}</option>
          ))}
        </select>
      </label>
      <label class="check">
        Smoothing
        <input
          type="range"
          min="0"
          max="0.98"
          step="0.02"
          value={smoothing}
          onInput={(event) => setQuery({ smooth: event.currentTarget.value })}
        />
      </label>
      <label class="check">
        <input
          type="checkbox"
          checked={isClipped}
          onChange={(event) => setQuery({ clip: event.currentTarget.checked ? "20" : null })}
        />
        Errors to 20 %
      </label>
      <label class="check">
        <input
          type="checkbox"
          checked={isLog}
          onChange={(event) => setQuery({ loss: event.currentTarget.checked ? "log" : null })}
        />
        Loss as logarithm
      </label>
      {zoom ? (
        <button type="button" onClick={() => setZoom(null)}>
          Show everything
        </button>
      ) : (
        <span class="muted wide">Drag over a chart to zoom.</span>
      )}
    </div>
  );
}
