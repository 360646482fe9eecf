/** One search: the ranking of its trials, their fields and metric, importance, learning curves. */
import { type Signal, useSignal } from "@preact/signals";
import { useMemo } from "preact/hooks";
import { api, read, type Schemas } from "../api/client";
import { Chart } from "../components/chart";
import { Fact } from "../components/facts";
import { EmptyNote, ErrorNote } from "../components/notes";
import { ParallelCoordinates } from "../components/parallel";
import { ScrollRegion } from "../components/scroll-region";
import { Slices } from "../components/slices";
import { State } from "../components/state";
import { type Column, Table } from "../components/table";
import { useAction } from "../lib/action";
import { continued, type Line } from "../lib/curves";
import { duration, number, precise, time } from "../lib/format";
import { dataOf, errorOf, source, useLive } from "../lib/live";
import { type Brushes, type Dimension, dimensionOf, isBrushed, type Value } from "../lib/parallel";
import { usePolled } from "../lib/poll";
import { useTitle } from "../lib/title";
import { mayChange } from "../session";

type Search = Schemas["SearchView"];
type Trial = Schemas["TrialView"];
type Command = "pause" | "resume" | "cancel";

/** Trials whose curves are drawn, the best first; a request reads no more. */
const DRAWN = 100;

export function SearchPage({ id }: { id: string }) {
  const path = { path: { search_id: id } };
  const brushes = useSignal<Brushes>({});
  const pointed = useSignal<string | null>(null);
  const live = {
    search: useLive(source("/v1/searches/{search_id}", path)),
    trials: useLive(source("/v1/searches/{search_id}/trials", path)),
  };
  const data = dataOf(live);
  useTitle(data?.search.name ?? "Search");
  const rows = useMemo(
    () =>
      data?.trials.trials.map((trial) => ({
        id: trial.job_id,
        values: { ...trial.params, ...trial.values } as Record<string, Value>,
      })) ?? [],
    [data?.trials],
  );
  const dimensions = useMemo(
    () => (data ? dimensionsOf(data.search, rows) : []),
    [data?.search, rows],
  );
  if (!data)
    return (
      <>
        <h1>Search</h1>
        <ErrorNote error={errorOf(live)} />
        {errorOf(live)?.status === 404 && (
          <EmptyNote title="It may have been deleted.">
            <a href="/searches">Go to the searches</a>
          </EmptyNote>
        )}
      </>
    );
  const { search } = data;
  const { trials } = data.trials;
  const chosen = new Set(
    rows.filter(({ values }) => isBrushed(values, dimensions, brushes.value)).map((row) => row.id),
  );
  const shown = trials.filter((trial) => chosen.has(trial.job_id));
  return (
    <>
      <div class="head">
        <h1>{search.name}</h1>
        <State state={search.state} />
        <Commands search={search} />
      </div>
      <ErrorNote error={errorOf(live)} />
      <Summary search={search} />
      {trials.length === 0 ? (
        <EmptyNote title="No trials yet.">
          They appear when the search has started its driver.
        </EmptyNote>
      ) : (
        <>
          <section class="section" aria-label="Fields and metric">
            <header>
              <h2>Fields and metric</h2>
              <span class="muted">
                Drag along an axis, or move the ends of its range with the arrow keys, to choose
                trials.
              </span>
              {Object.keys(brushes.value).length > 0 && (
                <button
                  type="button"
                  onClick={() => {
                    brushes.value = {};
                  }}
                >
                  Show all {trials.length} trials
                </button>
              )}
            </header>
            <ParallelCoordinates {...{ rows, dimensions, brushes, pointed }} />
          </section>
          <Importance searchId={search.id} />
          {shown.length === 0 ? (
            <EmptyNote title="No trial is in the chosen ranges." />
          ) : (
            <>
              <Slices search={search} trials={shown} pointed={pointed} />
              <Curves search={search} trials={shown.slice(0, DRAWN)} pointed={pointed.value} />
              <Ranking search={search} trials={shown} pointed={pointed} />
            </>
          )}
        </>
      )}
    </>
  );
}

function dimensionsOf(search: Search, rows: { values: Record<string, Value> }[]): Dimension[] {
  const space = search.spec.space as Record<string, Record<string, unknown>>;
  const fields = Object.entries(space).map(([name, { loguniform, lograndint }]) => ({
    name,
    isLog: Boolean(loguniform ?? lograndint),
  }));
  const metrics = search.spec.metric.map((name) => ({ name: name as string, isLog: false }));
  return [...fields, ...metrics].map(({ name, isLog }) =>
    dimensionOf(
      name,
      rows.map(({ values }) => values[name] ?? null),
      isLog,
    ),
  );
}

function Commands({ search }: { search: Search }) {
  const { failure, run } = useAction();
  const isFinal = ["succeeded", "failed", "cancelled"].includes(search.state);
  const commands: [Command, string][] =
    isFinal || !mayChange(search.user)
      ? []
      : [
          search.state === "paused" ? ["resume", "Resume"] : ["pause", "Pause"],
          ["cancel", "Cancel"],
        ];

  async function send(command: Command) {
    if (command === "cancel" && !confirm(`Cancel ${search.name} and its trials?`)) return;
    const params = { path: { search_id: search.id } };
    await run(() => read(api.POST(`/v1/searches/{search_id}/${command}`, { params })));
  }

  return (
    <div class="end">
      {failure.value && (
        <span class="bad" role="alert">
          {failure.value.message}
        </span>
      )}
      {commands.map(([command, title]) => (
        <button
          type="button"
          class={command === "cancel" ? "danger" : ""}
          onClick={() => send(command)}
        >
          {title}
        </button>
      ))}
      <a class="button" href={`/v1/searches/${search.id}/export?format=csv`} download="trials.csv">
        CSV
      </a>
    </div>
  );
}

function Summary({ search }: { search: Search }) {
  const { used, counts, spec } = search;
  const best = search.best?.[0];
  const [metric] = spec.metric;
  const states = Object.entries(counts ?? {}).filter(([, trials]) => trials > 0);
  return (
    <dl class="facts">
      <Fact name={`Best ${metric}`}>
        <strong>{best && metric ? precise(best.values[metric]) : "–"}</strong>{" "}
        {best && <a href={`/jobs/${best.job_id}`}>trial {best.number}</a>}
      </Fact>
      <Fact name="Trials">
        {used?.trials ?? 0}
        {spec.budget.trials ? ` of ${spec.budget.trials}` : ""}
      </Fact>
      <Fact name="By state">
        {states.map(([state, trials]) => `${trials} ${state}`).join(", ")}
      </Fact>
      <Fact name="Iterations">
        {number(used?.iterations)}
        {spec.budget.iterations ? ` of ${number(spec.budget.iterations)}` : ""}
      </Fact>
      <Fact name="Wall time">{duration(used?.wall_seconds)}</Fact>
      <Fact name="Algorithm">{spec.algorithm}</Fact>
      <Fact name="Early stops">{spec.scheduler.name}</Fact>
      <Fact name="User">{search.user}</Fact>
      <Fact name="Submitted">{time(search.created_at)}</Fact>
      {search.end_reason && <Fact name="Ended">{search.end_reason}</Fact>}
    </dl>
  );
}

/** Read by itself: its computation takes seconds. */
function Importance({ searchId }: { searchId: string }) {
  const params = { path: { search_id: searchId } };
  const polled = usePolled(
    searchId,
    () => read(api.GET("/v1/searches/{search_id}/importance", { params })),
    30,
  );
  const metrics = Object.entries(polled.data.value?.importance ?? {}).filter(
    ([, { shares }]) => Object.keys(shares).length > 0,
  );
  if (metrics.length === 0) return null;
  return (
    <section class="section" aria-label="Importance">
      <header>
        <h2>Importance</h2>
        <span class="muted">share of the variance of the metric, over succeeded trials</span>
      </header>
      {metrics.map(([metric, { shares, trials }]) => (
        <table class="bars">
          <caption>
            {metric}, {trials} trials
          </caption>
          <tbody>
            {Object.entries(shares)
              .sort(([, left], [, right]) => right - left)
              .map(([field, share]) => (
                <tr>
                  <th scope="row">{field}</th>
                  <td>
                    <progress value={share} max={1} aria-label={`${field}: share`} />
                  </td>
                  <td class="number">{number(100 * share)} %</td>
                </tr>
              ))}
          </tbody>
        </table>
      ))}
    </section>
  );
}

function Curves(properties: { search: Search; trials: Trial[]; pointed: string | null }) {
  const { search, trials, pointed } = properties;
  const series = search.spec.metric.find((metric) => metric.includes("/")) ?? "test/error";
  const ids = trials.map((trial) => trial.job_id).sort();
  const query = { job: ids, series: [series], buckets: 200 };
  const live = useLive(source("/v1/metrics", { query }, continued));
  const metrics = live.data.value;
  const lines = useMemo(() => {
    const numbers = new Map(trials.map((trial) => [trial.job_id, trial]));
    return (metrics?.jobs ?? []).flatMap((job): Line[] => {
      const buckets = job.series[series];
      const trial = numbers.get(job.job_id);
      if (!buckets || !trial) return [];
      const isFaint = pointed !== null && pointed !== job.job_id;
      return [
        {
          label: `trial ${trial.number}${trial.stop_reason ? ", stopped early" : ""}`,
          color: trial.rank === 0 ? "--residual" : trial.stop_reason ? "--strong-line" : "--plain",
          x: buckets.x,
          y: buckets.last,
          width: trial.rank === 0 ? 2.5 : 1.2,
          hasEnd: trial.stop_reason !== null,
          faint: isFaint,
        },
      ];
    });
  }, [metrics, trials, pointed]);
  return (
    <section class="section" aria-label="Learning curves">
      <h2>Learning curves</h2>
      <ErrorNote error={live.error.value} />
      {lines.length === 0 ? (
        <EmptyNote title="No evaluations yet." />
      ) : (
        <>
          <Chart title={series} lines={lines} xLabel="Iterations" formatX={number} isBrief />
          <p class="muted">
            Blue: the best trial; gray, with a circle at the end: stopped early; red: others. At
            most {DRAWN} trials, the best first. A row of the ranking brings its curve forward.
          </p>
          <EarlyStops trials={trials} />
        </>
      )}
    </section>
  );
}

function EarlyStops({ trials }: { trials: Trial[] }) {
  const stopped = trials.filter((trial) => trial.stop_reason !== null);
  if (stopped.length === 0) return null;
  return (
    <details>
      <summary>{stopped.length === 1 ? "1 early stop" : `${stopped.length} early stops`}</summary>
      <ScrollRegion label="Early stops" isCompact>
        <table>
          <thead>
            <tr>
              <th>Trial</th>
              <th class="number">Iteration</th>
              <th>Reason</th>
            </tr>
          </thead>
          <tbody>
            {stopped.map((trial) => (
              <tr>
                <th scope="row">
                  <a href={`/jobs/${trial.job_id}`}>trial {trial.number}</a>
                </th>
                <td class="number">{number(trial.iteration)}</td>
                <td>{trial.stop_reason}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </ScrollRegion>
    </details>
  );
}

function Ranking(properties: { search: Search; trials: Trial[]; pointed: Signal<string | null> }) {
  const { search, trials, pointed } = properties;
  const columns: Column<Trial>[] = [
    {
      id: "rank",
      title: "Rank",
      number: true,
      cell: (trial) => (trial.rank === null ? "–" : trial.rank + 1),
    },
    {
      id: "trial",
      title: "Trial",
      cell: (trial) => (
        <a
          class={`row ${pointed.value === trial.job_id ? "pointed" : ""}`}
          href={`/jobs/${trial.job_id}`}
          onFocus={() => {
            pointed.value = trial.job_id;
          }}
          onBlur={() => {
            pointed.value = null;
          }}
        >
          trial {trial.number}
        </a>
      ),
    },
    ...search.spec.metric.map((metric) => ({
      id: metric,
      title: metric,
      number: true,
      cell: (trial: Trial) => {
        const std = trial.stds[metric];
        return precise(trial.values[metric]) + (std === undefined ? "" : ` ± ${precise(std)}`);
      },
    })),
    ...Object.keys(search.spec.space).map((field) => ({
      id: field,
      title: field.split(".").at(-1) ?? field,
      number: true,
      cell: (trial: Trial) => {
        const value = trial.params[field];
        return typeof value === "number" ? precise(value) : String(value ?? "–");
      },
    })),
    { id: "state", title: "State", cell: (trial) => <State state={trial.state} /> },
    { id: "iteration", title: "Iteration", number: true, cell: (trial) => number(trial.iteration) },
    {
      id: "reason",
      title: "Stopped",
      clip: true,
      cell: (trial) => <span title={trial.stop_reason ?? ""}>{trial.stop_reason}</span>,
    },
  ];
  return (
    <section class="section">
      <header>
        <h2>Ranking</h2>
        <span class="muted">{trials.length} trials</span>
      </header>
      <Table
        label="Ranking"
        rows={trials}
        columns={columns}
        idOf={(trial) => trial.job_id}
        onPoint={(id) => {
          pointed.value = id;
        }}
      />
    </section>
  );
}
