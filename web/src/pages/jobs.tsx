/** The list of jobs: what runs, what waits and why, what has finished. */
import { type Signal, useComputed, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { ApiError, api, type Job, read, type Schemas } from "../api/client";
import { EmptyNote, ErrorNote } from "../components/notes";
import { State } from "../components/state";
import { type Column, type Sorting, Table } from "../components/table";
import { count, duration, number, percent, secondsBetween, time } from "../lib/format";
import { FINISHED, isFinished, RUNNING, sorted, testError, trainError, WAITING } from "../lib/jobs";
import { handleListKeys } from "../lib/keys";
import { usePolled } from "../lib/poll";
import { navigate, query, setQuery } from "../lib/route";
import { useTitle } from "../lib/title";

type Waiting = Schemas["QueueStatusView"];
type JobColumn = Column<Job> & { value?: (job: Job) => number | string | null };

interface Listing {
  running: Job[];
  waiting: Job[];
  reasons: Map<string, Waiting>;
  finished: Job[];
  next: string | null;
}

const PAGE = 500;

const name: JobColumn = {
  id: "name",
  title: "Name",
  clip: true,
  value: (job) => job.name,
  cell: (job) => (
    <a class="row" href={`/jobs/${job.id}`}>
      {job.name}
    </a>
  ),
};
const state: JobColumn = {
  id: "state",
  title: "State",
  value: (job) => job.state,
  cell: (job) => <State state={job.state} />,
};
const network: JobColumn = {
  id: "network",
  title: "Network",
  value: (job) => job.network,
  cell: (job) => job.network,
  wide: true,
};
const errors: JobColumn[] = [
  {
    id: "test",
    title: "Test error",
    number: true,
    value: testError,
    cell: (job) => percent(testError(job)),
  },
  {
    id: "train",
    title: "Train error",
    number: true,
    wide: true,
    value: trainError,
    cell: (job) => percent(trainError(job)),
  },
];
/** Columns that can be added or removed; those that are shown by default first. */
const OPTIONAL: JobColumn[] = [
  {
    id: "dataset",
    wide: true,
    title: "Data set",
    value: (job) => job.spec.dataset,
    cell: (job) => job.spec.dataset,
  },
  {
    id: "seed",
    wide: true,
    title: "Seed",
    number: true,
    value: (job) => job.spec.seed,
    cell: (job) => job.spec.seed,
  },
  { id: "recipe", title: "Recipe", value: recipeOf, cell: recipeOf },
  { id: "user", title: "User", value: (job) => job.user, cell: (job) => job.user },
  {
    id: "tags",
    wide: true,
    title: "Tags",
    clip: true,
    value: (job) => job.spec.tags.join(", ") || null,
    cell: (job) => job.spec.tags.join(", "),
  },
  {
    id: "parameters",
    wide: true,
    title: "Parameters",
    number: true,
    value: (job) => job.parameters,
    cell: (job) => count(job.parameters),
  },
  {
    id: "submitted",
    wide: true,
    title: "Submitted",
    value: (job) => job.created_at,
    cell: (job) => time(job.created_at),
  },
];
const DEFAULT_COLUMNS = ["dataset", "seed"];

const PROGRESS: JobColumn[] = [
  {
    id: "progress",
    title: "Progress",
    cell: (job) => {
      const progress = job.progress;
      if (!progress) return <span class="muted">starting</span>;
      return (
        <>
          <progress value={progress.percent} max={100} aria-label={`${job.name}: progress`} />{" "}
          {number(progress.percent)} %
        </>
      );
    },
  },
  {
    id: "eta",
    title: "Remaining",
    number: true,
    cell: (job) => duration(job.progress?.eta_seconds),
  },
  {
    id: "speed",
    title: "Images/s",
    number: true,
    wide: true,
    cell: (job) => number(job.progress?.images_per_second),
  },
];
const FINISH: JobColumn[] = [
  {
    id: "time",
    title: "Duration",
    number: true,
    wide: true,
    value: (job) => secondsBetween(job.started_at, job.finished_at),
    cell: (job) => duration(secondsBetween(job.started_at, job.finished_at)),
  },
  {
    id: "finished",
    title: "Finished",
    wide: true,
    value: (job) => job.finished_at,
    cell: (job) => time(job.finished_at),
  },
];

function recipeOf(job: Job): string {
  return job.spec.recipe?.name ?? "";
}

export function JobsPage() {
  useTitle("Jobs");
  const selected = useSignal<ReadonlySet<string>>(new Set());
  const filters = {
    name: query.value.get("name") ?? "",
    dataset: query.value.get("dataset") ?? "",
    tag: query.value.get("tag") ?? "",
  };
  const key = JSON.stringify(filters);
  const listing = usePolled<Listing>(key, (latest) => readListing(filters, latest), 2);
  const { data, error } = { data: listing.data.value, error: listing.error.value };
  const chosen = query.value.has("columns")
    ? (query.value.get("columns") ?? "").split(",")
    : DEFAULT_COLUMNS;
  const optional = OPTIONAL.filter((column) => chosen.includes(column.id));
  const compare = () => {
    if (selected.value.size > 0)
      navigate(`/compare?${new URLSearchParams([...selected.value].map((id) => ["job", id]))}`);
  };

  useEffect(() => {
    const handle = (event: KeyboardEvent) => handleListKeys(event, compare);
    addEventListener("keydown", handle);
    return () => removeEventListener("keydown", handle);
  }, []);

  const shared = { idOf: (job: Job) => job.id, nameOf: (job: Job) => job.name, selected };
  const isFiltered = Object.values(filters).some(Boolean);
  const total = data ? data.running.length + data.waiting.length + data.finished.length : 0;
  return (
    <>
      <div class="head">
        <h1>Jobs</h1>
        <div class="end">
          <a class="button primary" href="/submit">
            Submit a job
          </a>
        </div>
      </div>
      <Filters filters={filters} chosen={chosen} />
      <ErrorNote error={error} />
      <Selection selected={selected} listing={data} onCompare={compare} onDone={listing.refresh} />
      {data && total === 0 && (
        <EmptyNote title={isFiltered ? "No job matches the filters." : "No jobs yet."}>
          {isFiltered ? (
            <a href="/">Remove the filters</a>
          ) : (
            <>
              <a href="/submit">Submit the first job</a>, or run{" "}
              <code>resnetd submit depth=20 shortcut=A dataset=digits</code>.
            </>
          )}
        </EmptyNote>
      )}
      {data && data.running.length > 0 && (
        <Section title="Running" rows={data.running.length}>
          <Table
            label="Running jobs"
            rows={data.running}
            columns={[name, network, ...optional, ...PROGRESS, ...errors]}
            {...shared}
          />
        </Section>
      )}
      {data && data.waiting.length > 0 && (
        <Section title="Waiting" rows={data.waiting.length}>
          <Table
            label="Waiting jobs"
            rows={data.waiting}
            columns={[...waitingColumns(data.reasons), network, ...optional]}
            {...shared}
          />
        </Section>
      )}
      {data && data.finished.length > 0 && (
        <Finished
          listing={data}
          columns={[name, state, network, ...optional, ...errors, ...FINISH]}
          shared={shared}
          onEnd={() => readMore(filters, listing.data as Signal<Listing | undefined>)}
        />
      )}
    </>
  );
}

function Section(properties: {
  title: string;
  rows: string | number;
  children: preact.ComponentChildren;
}) {
  return (
    <section class="section">
      <header>
        <h2>{properties.title}</h2>
        <span class="muted">{properties.rows}</span>
      </header>
      {properties.children}
    </section>
  );
}

function Finished(properties: {
  listing: Listing;
  columns: JobColumn[];
  shared: object;
  onEnd: () => void;
}) {
  const { listing, columns, onEnd } = properties;
  const [column = "", order] = (query.value.get("sort") ?? "").split(":");
  const sorting: Sorting = { column, descending: order === "desc" };
  const keyOf = columns.find((candidate) => candidate.id === column)?.value;
  const rows = keyOf ? sorted(listing.finished, keyOf, sorting.descending) : listing.finished;
  // A sorted list needs all its rows.
  useEffect(() => {
    if (keyOf && listing.next) onEnd();
  }, [keyOf, listing.next]);
  return (
    <Section title="Finished" rows={`${rows.length}${listing.next ? " or more" : ""}`}>
      <Table
        label="Finished jobs"
        rows={rows}
        columns={columns.map((item) => ({ ...item, sortable: item.value !== undefined }))}
        sorting={sorting}
        onSort={(next) => setQuery({ sort: `${next.column}:${next.descending ? "desc" : "asc"}` })}
        onEnd={listing.next ? onEnd : undefined}
        {...(properties.shared as { idOf: (job: Job) => string })}
      />
    </Section>
  );
}

function waitingColumns(reasons: Map<string, Waiting>): JobColumn[] {
  return [
    {
      id: "position",
      title: "Position",
      cell: (job) => reasons.get(job.id)?.position ?? "–",
    },
    name,
    {
      id: "start",
      title: "Starts",
      cell: (job) => {
        const starts = reasons.get(job.id)?.starts_p50;
        return starts ? `about ${time(starts)}` : <span class="muted">not known</span>;
      },
    },
    {
      id: "reason",
      title: "Reason",
      cell: (job) => (
        <span title={reasons.get(job.id)?.message}>{reasons.get(job.id)?.message}</span>
      ),
      clip: true,
    },
  ];
}

function Filters({ filters, chosen }: { filters: Record<string, string>; chosen: string[] }) {
  const set = (field: string) => (event: Event) =>
    setQuery({ [field]: (event.currentTarget as HTMLInputElement).value });
  return (
    <search class="row">
      {[
        ["name", "Name contains"],
        ["dataset", "Data set"],
        ["tag", "Tag"],
      ].map(([field = "", label]) => (
        <input
          type="search"
          aria-label={label}
          placeholder={label}
          value={filters[field]}
          onInput={set(field)}
        />
      ))}
      <details class="menu">
        <summary class="button">Columns</summary>
        <fieldset>
          <legend class="hidden-visually">Columns</legend>
          {OPTIONAL.map((column) => (
            <label>
              <input
                type="checkbox"
                checked={chosen.includes(column.id)}
                onChange={(event) => {
                  const isOn = event.currentTarget.checked;
                  const next = chosen.filter((id) => id !== column.id && id !== "none");
                  if (isOn) next.push(column.id);
                  setQuery({ columns: next.join(",") || "none" });
                }}
              />
              {column.title}
            </label>
          ))}
        </fieldset>
      </details>
    </search>
  );
}

function Selection(properties: {
  selected: Signal<ReadonlySet<string>>;
  listing: Listing | undefined;
  onCompare: () => void;
  onDone: () => void;
}) {
  const { selected, listing } = properties;
  const failure = useSignal<ApiError | null>(null);
  const active = useComputed(() => selected.value);
  const jobs = listing
    ? [...listing.running, ...listing.waiting].filter((job) => active.value.has(job.id))
    : [];
  if (selected.value.size === 0) return <ErrorNote error={failure.value} />;

  async function cancel() {
    if (!confirm(`Cancel ${jobs.length} ${jobs.length === 1 ? "job" : "jobs"}?`)) return;
    failure.value = null;
    for (const job of jobs) {
      try {
        await read(api.POST("/v1/jobs/{job_id}/cancel", { params: { path: { job_id: job.id } } }));
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        failure.value = error;
      }
    }
    selected.value = new Set();
    properties.onDone();
  }

  return (
    <>
      <ErrorNote error={failure.value} />
      <div class="row selection" role="status">
        <span>{selected.value.size} selected</span>
        <button type="button" class="primary" onClick={properties.onCompare}>
          Compare
        </button>
        <button type="button" class="danger" disabled={jobs.length === 0} onClick={cancel}>
          Cancel
        </button>
        <button
          type="button"
          class="quiet"
          onClick={() => {
            selected.value = new Set();
          }}
        >
          Clear
        </button>
      </div>
    </>
  );
}

function listJobs(
  filters: Record<string, string>,
  states: readonly Job["state"][],
  limit: number,
  token?: string,
) {
  return read(
    api.GET("/v1/jobs", {
      params: {
        query: {
          state: [...states],
          name: filters.name || undefined,
          dataset: filters.dataset || undefined,
          tag: filters.tag ? [filters.tag] : undefined,
          page_token: token,
          limit,
        },
      },
    }),
  );
}

async function readListing(
  filters: Record<string, string>,
  latest: () => Listing | undefined,
): Promise<Listing> {
  const [running, waiting, queue] = await Promise.all([
    listJobs(filters, RUNNING, 1000),
    listJobs(filters, WAITING, 1000),
    read(api.GET("/v1/queue", { params: { query: { limit: 500 } } })),
  ]);
  const reasons = new Map(queue.jobs.map((job) => [job.job_id, job.waiting]));
  const order = new Map(queue.jobs.map((job, index) => [job.job_id, index]));
  const active = {
    running: running.jobs,
    waiting: sorted(waiting.jobs, (job) => order.get(job.id) ?? null, false),
    reasons,
  };
  // Finished jobs do not change. New ones were active until now, or came and went between two reads.
  const isActive = new Set([...running.jobs, ...waiting.jobs].map((job) => job.id));
  const before = latest();
  const ended = [...(before?.running ?? []), ...(before?.waiting ?? [])].filter(
    (job) => !isActive.has(job.id),
  );
  const [page, ...jobs] = await Promise.all([
    listJobs(filters, FINISHED, before ? 20 : PAGE),
    ...ended.map((job) =>
      read(api.GET("/v1/jobs/{job_id}", { params: { path: { job_id: job.id } } })),
    ),
  ]);
  const fresh = [...page.jobs, ...jobs.filter(isFinished)];
  // Further pages may have come in the meantime.
  const previous = latest();
  const finished = new Map([...fresh, ...(previous?.finished ?? [])].map((job) => [job.id, job]));
  return {
    ...active,
    // Ids are in the order of submission.
    finished: [...finished.values()].sort((left, right) => (left.id < right.id ? 1 : -1)),
    next: previous ? previous.next : page.next_page_token,
  };
}

let isReadingMore = false;

async function readMore(
  filters: Record<string, string>,
  listing: Signal<Listing | undefined>,
): Promise<void> {
  const before = listing.value;
  if (!before?.next || isReadingMore) return;
  isReadingMore = true;
  try {
    const page = await listJobs(filters, FINISHED, PAGE, before.next);
    const now = listing.value;
    if (now?.next === before.next)
      listing.value = {
        ...now,
        finished: [...now.finished, ...page.jobs.filter(isFinished)],
        next: page.next_page_token,
      };
  } finally {
    isReadingMore = false;
  }
}
