/** The list of jobs: what runs, what waits and why, what has finished. */
import { type Signal, useComputed, useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { ApiError, api, type Job, read } from "../api/client";
import {
  DEFAULT_COLUMNS,
  ERRORS,
  FINISHED_COLUMNS,
  type JobColumn,
  NAME,
  NETWORK,
  OPTIONAL_COLUMNS,
  RUNNING_COLUMNS,
  STATE,
  waitingColumns,
} from "../components/job-columns";
import { EmptyNote, ErrorNote } from "../components/notes";
import { type Sorting, Table } from "../components/table";
import { type Listing, readListing, readMore } from "../lib/job-listing";
import { sorted } from "../lib/jobs";
import { handleListKeys } from "../lib/keys";
import { usePolled } from "../lib/poll";
import { navigate, query, setQuery } from "../lib/route";
import { useTitle } from "../lib/title";

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
  const optional = OPTIONAL_COLUMNS.filter((column) => chosen.includes(column.id));
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
            columns={[NAME, NETWORK, ...optional, ...RUNNING_COLUMNS, ...ERRORS]}
            {...shared}
          />
        </Section>
      )}
      {data && data.waiting.length > 0 && (
        <Section title="Waiting" rows={data.waiting.length}>
          <Table
            label="Waiting jobs"
            rows={data.waiting}
            columns={[...waitingColumns(data.reasons), NETWORK, ...optional]}
            {...shared}
          />
        </Section>
      )}
      {data && data.finished.length > 0 && (
        <Finished
          listing={data}
          columns={[NAME, STATE, NETWORK, ...optional, ...ERRORS, ...FINISHED_COLUMNS]}
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

function Filters({ filters, chosen }: { filters: Record<string, string>; chosen: string[] }) {
  const set = (field: string) => (event: Event) =>
    setQuery({ [field]: (event.currentTarget as HTMLInputElement).value });
  return (
    <search class="row">
      {[
        ["name", "Name contains"],
        ["dataset", "Dataset"],
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
          {OPTIONAL_COLUMNS.map((column) => (
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
