/** Any jobs as the paper draws them, grouped over seeds, and the fields in which they differ. */
import { type Signal, useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import type { Schemas } from "../api/client";
import { Chart } from "../components/chart";
import { Controls, setZoom, zoomOf } from "../components/curves";
import { EmptyNote, ErrorNote } from "../components/notes";
import { ScrollRegion } from "../components/scroll-region";
import { Share } from "../components/share";
import { ActionsHeading } from "../components/short-table";
import { formatOf } from "../lib/axes";
import { AXES, type Axis, continued, type Line } from "../lib/curves";
import { exported } from "../lib/exported";
import { type Figure, toCsv, toLatex, toPng, toSvg } from "../lib/figure";
import { count, duration, number, secondsBetween } from "../lib/format";
import { average, drawGroups, type Group, groupLines } from "../lib/groups";
import { flatten, testError, trainError } from "../lib/jobs";
import { dataOf, errorOf, source, useLive } from "../lib/live";
import { query, setQuery } from "../lib/route";
import { useTitle } from "../lib/title";
import { mayChange } from "../session";

const BUCKETS = 500;
const MAX_JOBS = 100;
const CHARTS = [
  ["Error, %", ["train/error", "test/error"]],
  ["Loss", ["train/loss", "test/loss"]],
] as const;

const SERIES = CHARTS.flatMap(([, series]) => series);

export function ComparePage() {
  useTitle("Compare");
  const ids = [...new Set(query.value.getAll("job"))].slice(0, MAX_JOBS);
  if (ids.length > 0) return <Compared ids={ids} />;
  return (
    <>
      <h1>Compare</h1>
      <EmptyNote title="No jobs are chosen.">
        <a href="/">Select jobs in the list</a>, then choose Compare. The address has the choice:
        share it.
      </EmptyNote>
    </>
  );
}

function Compared({ ids }: { ids: string[] }) {
  const axis = (query.value.get("x") ?? "iteration") as Axis;
  const smoothing = Number(query.value.get("smooth") ?? "0.6");
  const isClipped = query.value.get("clip") === "20";
  const isLog = query.value.get("loss") === "log";
  const byJob = query.value.get("group") === "none";
  const zoom = zoomOf(query.value);
  const pointed = useSignal<string | null>(null);
  const metricsQuery = { job: ids, series: SERIES, x: axis, buckets: BUCKETS, ...zoom };
  const live = {
    jobs: useLive(source("/v1/jobs", { query: { job: ids, limit: MAX_JOBS } })),
    groups: useLive(source("/v1/groups", { query: { job: ids, by: [byJob ? "id" : "-seed"] } })),
    metrics: useLive(source("/v1/metrics", { query: metricsQuery }, continued)),
  };
  const data = dataOf(live);
  const groups = useMemo(
    () => (data ? drawGroups(data.groups.groups, data.jobs.jobs, ids) : []),
    [data?.groups, data?.jobs],
  );
  const charts = useMemo(
    () =>
      CHARTS.map(([title, series]) => ({
        title,
        lines: data
          ? groups.flatMap((group) => groupLines(group, series, data.metrics, smoothing))
          : [],
      })),
    [data?.metrics, groups, smoothing],
  );

  return (
    <>
      <div class="head">
        <h1>Compare</h1>
        <span class="muted">{ids.length === 1 ? "1 job" : `${ids.length} jobs`}</span>
        <div class="end">
          {data?.jobs.jobs.every((job) => mayChange(job.user)) && (
            <Share key={ids.join()} subject={{ jobs: ids }} />
          )}
          {!exported && (
            <a
              class="button"
              href={`/v1/export?${new URLSearchParams(ids.map((id) => ["job", id]))}`}
              download
            >
              Save as HTML
            </a>
          )}
          <label class="check">
            <input
              type="checkbox"
              checked={!byJob}
              onChange={(event) => setQuery({ group: event.currentTarget.checked ? null : "none" })}
            />
            Mean over seeds
          </label>
        </div>
      </div>
      <ErrorNote error={errorOf(live)} />
      {data && (
        <>
          <section class="section" aria-label="Curves">
            <header>
              <h2>Curves</h2>
              <Controls {...{ axis, smoothing, isClipped, isLog, zoom }} />
            </header>
            <div class="charts">
              {charts.map(({ title, lines }) => {
                const top = title.startsWith("Error") && isClipped ? 20 : undefined;
                return (
                  <div>
                    <Chart
                      title={title}
                      lines={emphasized(lines, groups, pointed.value)}
                      xLabel={AXES[axis]}
                      formatX={formatOf(axis)}
                      sync="compare"
                      zoom={zoom}
                      onZoom={setZoom}
                      isLog={title === "Loss" && isLog}
                      top={top}
                      height={320}
                    />
                    <Exports
                      name={title.startsWith("Error") ? "error" : "loss"}
                      figure={{
                        xLabel: AXES[axis],
                        yLabel: title,
                        lines: lines.map((line) => ({
                          ...line,
                          stroke: PRINTED[line.color] ?? "#000000",
                        })),
                        top,
                        source: groups.map(({ label, jobs }) => ({
                          label,
                          jobs: jobs.map((job) => job.id),
                          spec: flatten(jobs[0]?.spec ?? {}),
                        })),
                      }}
                    />
                  </div>
                );
              })}
            </div>
            {!byJob && groups.some((group) => group.jobs.length > 1) && (
              <p class="muted">
                Lines are means over the seeds of a group, at the iterations that all of them have;
                bands reach from their lowest to their highest value.
              </p>
            )}
          </section>
          <Results groups={groups} pointed={pointed} />
          <Differences groups={groups} pointed={pointed} />
        </>
      )}
    </>
  );
}

/** Colours on white paper, whatever the theme. */
const PRINTED: Record<string, string> = {
  "--plain-1": "#c0392b",
  "--plain-2": "#e07b39",
  "--plain-3": "#8e2a5b",
  "--plain-4": "#b58900",
  "--residual-1": "#1f5fbf",
  "--residual-2": "#1c8a8a",
  "--residual-3": "#5b4bb5",
  "--residual-4": "#3b7a2a",
};

/** The lines of the group under the pointer come forward. */
function emphasized(lines: Line[], groups: Group[], pointed: string | null): Line[] {
  const label = groups.find((group) => group.label === pointed)?.label;
  if (!label) return lines;
  return lines.map((line) =>
    line.label.startsWith(`${label} `) ? line : { ...line, faint: true },
  );
}

function Results({ groups, pointed }: { groups: Group[]; pointed: Signal<string | null> }) {
  return (
    <section class="section">
      <h2>Results</h2>
      <ScrollRegion label="Results">
        <table>
          <thead>
            <tr>
              <th>Group</th>
              <th class="number">Test error, %</th>
              <th class="number wide">95 % interval</th>
              <th class="number">Train error, %</th>
              <th>Jobs</th>
              <th class="number wide">Parameters</th>
              <th class="number wide">Duration</th>
              <ActionsHeading />
            </tr>
          </thead>
          <tbody>
            {groups.map((group) => {
              const [first] = group.jobs;
              const seconds = group.jobs.flatMap(
                (job) => secondsBetween(job.started_at, job.finished_at) ?? [],
              );
              return (
                <tr
                  onMouseEnter={() => {
                    pointed.value = group.label;
                  }}
                  onMouseLeave={() => {
                    pointed.value = null;
                  }}
                >
                  <th scope="row">
                    <span class="key" style={{ background: `var(${group.color})` }} /> {group.label}
                  </th>
                  <td class="number">
                    {meanText(group.results.test_error) ?? currentText(group.jobs.map(testError))}
                  </td>
                  <td class="number wide">{intervalText(group.results.test_error)}</td>
                  <td class="number">
                    {meanText(group.results.train_error) ?? currentText(group.jobs.map(trainError))}
                  </td>
                  <td class="clip">
                    {group.jobs.map((job) => (
                      <a href={`/jobs/${job.id}`} title={job.name}>
                        seed {job.spec.seed}{" "}
                      </a>
                    ))}
                  </td>
                  <td class="number wide">{count(first?.parameters)}</td>
                  <td class="number wide">{seconds.length ? duration(average(seconds)) : "–"}</td>
                  <td>
                    {!exported && (
                      <button type="button" class="quiet" onClick={() => remove(group)}>
                        Remove<span class="hidden-visually"> {group.label}</span>
                      </button>
                    )}
                  </td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </ScrollRegion>
    </section>
  );
}

type Statistics = Schemas["SampleStatisticsView"];

/** Of finished jobs; null without one. */
function meanText(found: Statistics | undefined): string | null {
  if (!found) return null;
  const { mean, std, n } = found;
  return std === null ? number(mean, 2) : `${number(mean, 2)} ± ${number(std, 2)} (n ${n})`;
}

function currentText(values: (number | null)[]): string {
  const found = values.filter((value) => value !== null);
  return found.length > 0 ? `${number(average(found), 2)} so far` : "–";
}

/** Of the mean. */
function intervalText(found: Statistics | undefined): string {
  if (!found || found.ci_low === null || found.ci_high === null) return "–";
  return `${number(found.ci_low, 2)} to ${number(found.ci_high, 2)}`;
}

function remove(group: Group) {
  const removed = new Set(group.jobs.map((job) => job.id));
  setQuery({ job: query.value.getAll("job").filter((id) => !removed.has(id)) });
}

function Differences({ groups, pointed }: { groups: Group[]; pointed: Signal<string | null> }) {
  const pointing = (group: Group) => ({
    onMouseEnter: () => {
      pointed.value = group.label;
    },
    onMouseLeave: () => {
      pointed.value = null;
    },
  });
  const found = Object.keys(groups[0]?.fields ?? {});
  if (groups.length < 2) return null;
  return (
    <section class="section">
      <header>
        <h2>Differences</h2>
        <span class="muted">fields of the specs that are not equal</span>
      </header>
      {found.length === 0 ? (
        <EmptyNote title="The specs are equal but for the seed." />
      ) : (
        <ScrollRegion label="Differences">
          <table>
            <thead>
              <tr>
                <th>Field</th>
                {groups.map((group) => (
                  <th {...pointing(group)}>
                    <span class="key" style={{ background: `var(${group.color})` }} /> {group.label}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {found.map((field) => (
                <tr>
                  <th scope="row" class="mono">
                    {field}
                  </th>
                  {groups.map((group) => (
                    <td class="mono clip" {...pointing(group)}>
                      {group.fields[field] === "null" ? "–" : group.fields[field]}
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </ScrollRegion>
      )}
    </section>
  );
}

function Exports({ name, figure }: { name: string; figure: Figure }) {
  const text = (make: (figure: Figure) => string, type: string) => async () =>
    new Blob([make(figure)], { type });
  const formats: [string, string, () => Promise<Blob>][] = [
    ["SVG", "svg", text(toSvg, "image/svg+xml")],
    ["PNG", "png", () => toPng(figure)],
    ["CSV", "csv", text(toCsv, "text/csv")],
    ["LaTeX", "tex", text(toLatex, "text/x-tex")],
  ];
  return (
    <div class="row exports">
      <span class="muted">Export</span>
      {formats.map(([title, suffix, make]) => (
        <button
          type="button"
          class="quiet"
          onClick={async () => save(await make(), `${name}.${suffix}`)}
        >
          {title}
          <span class="hidden-visually"> of {figure.yLabel}</span>
        </button>
      ))}
    </div>
  );
}

function save(blob: Blob, name: string) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}
