/** The list of jobs: what runs, what waits and why, what has finished. */
import { type Signal, useSignal } from "@preact/signals";
import { useEffect, useMemo } from "preact/hooks";
import { ApiError, api, read } from "../api/client";
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
import { changeLabels, tagsOf } from "../components/labels";
import { EmptyNote, ErrorNote } from "../components/notes";
import { type Sorting, Table } from "../components/table";
import { type Filters, type Listing, useListing } from "../lib/job-listing";
import { isFinished, type ListedJob, sorted } from "../lib/jobs";
import { handleListKeys } from "../lib/keys";
import { navigate, query, setQuery } from "../lib/route";
import { useTitle } from "../lib/title";
import { mayChange, maySubmit } from "../session";

const ALL_COLUMNS = [NAME, STATE, NETWORK, ...OPTIONAL_COLUMNS, ...ERRORS, ...FINISHED_COLUMNS];

export function JobsPage() {
  useTitle("Jobs");
  const selected = useSignal<ReadonlySet<string>>(new Set());
  const filters: Filters = {
    text: query.value.get("text") ?? "",
    dataset: query.value.get("dataset") ?? "",
    tag: query.value.get("tag") ?? "",
    where: query.value.get("where") ?? "",
    archived: query.value.has("archived"),
  };
  const { column, descending } = sortingOf(query.value);
  const field = ALL_COLUMNS.find(({ id }) => id === column)?.field;
  const sort = field ? `${descending ? "-" : ""}${field}` : null;
  const { listing: data, error, readMore } = useListing(filters, sort);
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

  const shared = { idOf, nameOf, selected };
  const isFiltered = Object.values(filters).some(Boolean);
  const total = data ? data.running.length + data.waiting.length + data.finished.length : 0;
  return (
    <>
      <div class="head">
        <h1>Jobs</h1>
        <div class="end">
          {maySubmit.value && (
            <a class="button primary" href="/submit">
              Submit a job
            </a>
          )}
        </div>
      </div>
      <FilterFields filters={filters} chosen={chosen} />
      <ErrorNote error={error} />
      <Selection selected={selected} listing={data} onCompare={compare} />
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
          onEnd={readMore}
        />
      )}
    </>
  );
}

// Functions of their own, so that a row whose job is the same is not rendered again.
const idOf = (job: ListedJob) => job.id;
const nameOf = (job: ListedJob) => job.name;

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
  const sorting = sortingOf(query.value);
  const chosen = columns.find((candidate) => candidate.id === sorting.column);
  const keyOf = chosen?.value;
  const rows = useMemo(
    () => (keyOf ? sorted(listing.finished, keyOf, sorting.descending) : listing.finished),
    [listing.finished, keyOf, sorting.descending],
  );
  const shown = useMemo(
    () => columns.map((item) => ({ ...item, sortable: item.value !== undefined })),
    [columns.map(({ id }) => id).join()],
  );
  // What the API cannot sort needs all its rows.
  useEffect(() => {
    if (keyOf && !chosen.field && listing.hasMore) onEnd();
  }, [keyOf, listing]);
  return (
    <Section title="Finished" rows={`${rows.length}${listing.hasMore ? " or more" : ""}`}>
      <Table
        label="Finished jobs"
        rows={rows}
        columns={shown}
        sorting={sorting}
        onSort={(next) => setQuery({ sort: `${next.column}:${next.descending ? "desc" : "asc"}` })}
        onEnd={listing.hasMore ? onEnd : undefined}
        {...(properties.shared as { idOf: (job: ListedJob) => string })}
      />
    </Section>
  );
}

function sortingOf(from: URLSearchParams): Sorting {
  const [column = "", order] = (from.get("sort") ?? "").split(":");
  return { column, descending: order === "desc" };
}

const FILTERS: [Exclude<keyof Filters, "archived">, string, string][] = [
  ["text", "Name, note or tag contains", "Name, note or tag"],
  ["dataset", "Dataset", "Dataset"],
  ["tag", "Tag", "Tag"],
  ["where", "Fields, such as depth:20,56 recipe.batch_size>=128", "depth:20,56 user:ann"],
];

function FilterFields({ filters, chosen }: { filters: Filters; chosen: string[] }) {
  const set = (field: string) => (event: Event) =>
    setQuery({ [field]: (event.currentTarget as HTMLInputElement).value || null });
  return (
    <search class="row">
      {FILTERS.map(([field, label, placeholder]) => (
        <input
          type="search"
          aria-label={label}
          title={label}
          placeholder={placeholder}
          value={filters[field]}
          onInput={set(field)}
        />
      ))}
      <label class="check">
        <input
          type="checkbox"
          checked={filters.archived}
          onChange={(event) => setQuery({ archived: event.currentTarget.checked ? "true" : null })}
        />
        Archived
      </label>
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
}) {
  const { selected, listing } = properties;
  const failure = useSignal<ApiError | null>(null);
  if (selected.value.size === 0) return <ErrorNote error={failure.value} />;
  const chosen = [
    ...(listing?.running ?? []),
    ...(listing?.waiting ?? []),
    ...(listing?.finished ?? []),
  ].filter((job) => selected.value.has(job.id));
  const own = chosen.filter((job) => mayChange(job.user));
  const active = own.filter((job) => !isFinished(job));

  async function change(jobs: ListedJob[], command: (job: ListedJob) => Promise<unknown>) {
    failure.value = null;
    for (const job of jobs) {
      try {
        await command(job);
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        failure.value = error;
      }
    }
    selected.value = new Set();
  }

  function cancel() {
    if (!confirm(`Cancel ${active.length} ${active.length === 1 ? "job" : "jobs"}?`)) return;
    change(active, (job) =>
      read(api.POST("/v1/jobs/{job_id}/cancel", { params: { path: { job_id: job.id } } })),
    );
  }

  function tag() {
    const tags = tagsOf(prompt("Tags to add, separated by spaces") ?? "");
    if (tags.length > 0)
      change(own, (job) => changeLabels(job.id, { tags: [...job.spec.tags, ...tags] }));
  }

  const isArchived = own.some((job) => job.archived);
  return (
    <>
      <ErrorNote error={failure.value} />
      <div class="row selection" role="status">
        <span>{selected.value.size} selected</span>
        <button type="button" class="primary" onClick={properties.onCompare}>
          Compare
        </button>
        <button type="button" disabled={own.length === 0} onClick={tag}>
          Tag
        </button>
        <button
          type="button"
          onClick={() => change(own, (job) => changeLabels(job.id, { archived: !isArchived }))}
          disabled={own.length === 0}
        >
          {isArchived ? "Take out of the archive" : "Archive"}
        </button>
        <button type="button" class="danger" disabled={active.length === 0} onClick={cancel}>
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
