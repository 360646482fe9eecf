/** The list of searches. */
import type { Schemas } from "../api/client";
import { EmptyNote, ErrorNote } from "../components/notes";
import { State } from "../components/state";
import { type Column, Table } from "../components/table";
import { duration, secondsBetween, time } from "../lib/format";
import { source, useLive } from "../lib/live";
import { useTitle } from "../lib/title";

type Complete = Schemas["SearchView"];
type Search = Pick<
  Complete,
  "id" | "name" | "state" | "user" | "created_at" | "started_at" | "finished_at"
> & { spec: Pick<Complete["spec"], "metric" | "algorithm" | "scheduler"> };
const FIELDS =
  "id,name,state,user,created_at,started_at,finished_at,spec.metric,spec.algorithm,spec.scheduler";

const COLUMNS: Column<Search>[] = [
  {
    id: "name",
    title: "Name",
    clip: true,
    cell: (search) => (
      <a class="row" href={`/searches/${search.id}`}>
        {search.name}
      </a>
    ),
  },
  { id: "state", title: "State", cell: (search) => <State state={search.state} /> },
  { id: "metric", title: "Metric", cell: (search) => search.spec.metric.join(", ") },
  {
    id: "algorithm",
    title: "Algorithm",
    wide: true,
    cell: (search) => `${search.spec.algorithm}, ${search.spec.scheduler.name}`,
  },
  { id: "user", title: "User", wide: true, cell: (search) => search.user },
  { id: "submitted", title: "Submitted", wide: true, cell: (search) => time(search.created_at) },
  {
    id: "time",
    title: "Duration",
    number: true,
    wide: true,
    cell: (search) => duration(secondsBetween(search.started_at, search.finished_at)),
  },
];

export function SearchesPage() {
  useTitle("Searches");
  const live = useLive(source("/v1/searches", { query: { limit: 500, fields: FIELDS } }));
  const searches = live.data.value?.searches as Search[] | undefined;
  return (
    <>
      <h1>Searches</h1>
      <ErrorNote error={live.error.value} />
      {searches?.length === 0 && (
        <EmptyNote title="No searches yet.">
          A search trains many variants of a job and ranks them. Submit one with{" "}
          <code>resnetd search</code>.
        </EmptyNote>
      )}
      {searches && searches.length > 0 && (
        <Table label="Searches" rows={searches} columns={COLUMNS} idOf={(search) => search.id} />
      )}
    </>
  );
}
