/** The list of jobs: what runs, what waits and why, what has finished. */
import { api, type Job, read } from "../api/client";
import { EmptyNote, ErrorNote } from "../components/notes";
import { State } from "../components/state";
import { type Column, Table } from "../components/table";
import { percent, time } from "../lib/format";
import { usePolled } from "../lib/poll";
import { useTitle } from "../lib/title";

const COLUMNS: Column<Job>[] = [
  { id: "state", title: "State", cell: (job) => <State state={job.state} /> },
  { id: "name", title: "Name", cell: (job) => job.name, clip: true },
  { id: "network", title: "Network", cell: (job) => job.network },
  {
    id: "test",
    title: "Test error",
    number: true,
    cell: (job) => percent(job.progress?.metrics["test/error"]),
  },
  { id: "created", title: "Submitted", cell: (job) => time(job.created_at), wide: true },
];

export function JobsPage() {
  useTitle("Jobs");
  const polled = usePolled("jobs", () => read(api.GET("/v1/jobs", {})), 2);
  const { data, error } = polled.value;
  return (
    <>
      <h1>Jobs</h1>
      <ErrorNote error={error} />
      {data && data.jobs.length === 0 && (
        <EmptyNote title="No jobs yet.">
          Submit one: <code>resnetd submit depth=20 shortcut=A dataset=digits</code>
        </EmptyNote>
      )}
      {data && data.jobs.length > 0 && (
        <Table label="Jobs" rows={data.jobs} columns={COLUMNS} idOf={(job) => job.id} />
      )}
    </>
  );
}
