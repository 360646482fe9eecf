/** The cluster: what is free, who holds what, its runners, and why the head of the queue waits. */
import type { Job, Schemas } from "../api/client";
import { Fact } from "../components/facts";
import { EmptyNote, ErrorNote } from "../components/notes";
import { ScrollRegion } from "../components/scroll-region";
import { State } from "../components/state";
import { type Column, Table } from "../components/table";
import { number, time } from "../lib/format";
import { RUNNING } from "../lib/jobs";
import { dataOf, errorOf, source, useLive } from "../lib/live";
import { useTitle } from "../lib/title";

type Runner = Schemas["RunnerView"];

type Holder = Pick<Job, "id" | "name" | "user" | "started_at" | "num_workers"> & {
  spec: Pick<Job["spec"], "resources">;
};
const HOLDER_FIELDS = "id,name,user,started_at,num_workers,spec.resources";

const HOLDERS: Column<Holder>[] = [
  {
    id: "name",
    title: "Job",
    clip: true,
    cell: (job) => (
      <a class="row" href={`/jobs/${job.id}`}>
        {job.name}
      </a>
    ),
  },
  { id: "user", title: "User", cell: (job) => job.user },
  {
    id: "workers",
    title: "Workers",
    number: true,
    cell: (job) => job.num_workers,
  },
  {
    id: "cpus",
    title: "CPUs",
    number: true,
    cell: (job) => (job.num_workers ?? 0) * job.spec.resources.cpus_per_worker,
  },
  {
    id: "gpus",
    title: "GPUs",
    number: true,
    cell: (job) => (job.num_workers ?? 0) * (job.spec.resources.gpus_per_worker ?? 0),
  },
  { id: "since", title: "Since", wide: true, cell: (job) => time(job.started_at) },
];

const RUNNERS: Column<Runner>[] = [
  { id: "id", title: "Runner", cell: (runner) => <code>{runner.id}</code> },
  { id: "state", title: "State", cell: (runner) => runner.state },
  {
    id: "attempt",
    title: "Attempt",
    cell: (runner) =>
      runner.attempt_id ? (
        <a href={`/jobs/${runner.attempt_id.split("-a")[0]}`}>{runner.attempt_id}</a>
      ) : (
        <span class="muted">{runner.busy ? "of a hidden job" : "none: warm"}</span>
      ),
  },
  { id: "workers", title: "Workers", number: true, cell: (runner) => runner.num_workers },
  {
    id: "left",
    title: "Attempts left",
    number: true,
    wide: true,
    cell: (runner) => runner.attempts_left,
  },
  { id: "ready", title: "Ready since", wide: true, cell: (runner) => time(runner.ready_at) },
];

export function ClusterPage() {
  useTitle("Cluster");
  const live = {
    cluster: useLive(source("/v1/cluster", {})),
    runners: useLive(source("/v1/runners", {})),
    queue: useLive(source("/v1/queue", { query: { limit: 5 } })),
    running: useLive(
      source("/v1/jobs", { query: { state: [...RUNNING], limit: 1000, fields: HOLDER_FIELDS } }),
    ),
  };
  const data = dataOf(live);
  return (
    <>
      <h1>Cluster</h1>
      <ErrorNote error={errorOf(live)} />
      {data && (
        <>
          {data.cluster.seen_at === null ? (
            <EmptyNote title="No dispatcher has seen the cluster yet.">
              Start one: <code>resnetd-worker dispatcher</code>.
            </EmptyNote>
          ) : (
            <dl class="facts">
              <Usage name="CPUs" used={data.cluster.reserved_cpus} total={data.cluster.cpus} />
              <Usage name="GPUs" used={data.cluster.reserved_gpus} total={data.cluster.gpus} />
              <Fact name="Seen">{time(data.cluster.seen_at)}</Fact>
            </dl>
          )}
          {data.cluster.nodes.length > 0 && <Nodes nodes={data.cluster.nodes} />}
          <section class="section">
            <h2>Holders</h2>
            {data.running.jobs.length === 0 ? (
              <EmptyNote title="No job holds resources." />
            ) : (
              <Table
                label="Holders"
                rows={data.running.jobs as Holder[]}
                columns={HOLDERS}
                idOf={(job) => job.id}
              />
            )}
          </section>
          <section class="section">
            <h2>Head of the queue</h2>
            {data.queue.jobs.length === 0 ? (
              <EmptyNote title="No job waits." />
            ) : (
              <Table
                label="Head of the queue"
                rows={data.queue.jobs}
                columns={[
                  {
                    id: "name",
                    title: "Job",
                    clip: true,
                    cell: (job) => (
                      <a class="row" href={`/jobs/${job.job_id}`}>
                        {job.name}
                      </a>
                    ),
                  },
                  { id: "state", title: "State", cell: (job) => <State state={job.state} /> },
                  {
                    id: "reason",
                    title: "Why it waits",
                    cell: (job) => (
                      <>
                        {job.waiting.message}
                        {job.waiting.fair_share && (
                          <span class="muted"> Loses {job.waiting.fair_share.message}.</span>
                        )}
                      </>
                    ),
                  },
                ]}
                idOf={(job) => job.job_id}
              />
            )}
          </section>
          <section class="section">
            <h2>Runners</h2>
            {data.runners.runners.length === 0 ? (
              <EmptyNote title="No runners.">
                The dispatcher starts them for jobs and keeps warm ones as its settings say.
              </EmptyNote>
            ) : (
              <Table
                label="Runners"
                rows={data.runners.runners}
                columns={RUNNERS}
                idOf={(runner) => runner.id}
              />
            )}
          </section>
        </>
      )}
    </>
  );
}

function Nodes({ nodes }: { nodes: Schemas["NodeView"][] }) {
  return (
    <section class="section">
      <header>
        <h2>Nodes</h2>
        <span class="muted">{nodes.length}</span>
      </header>
      <ScrollRegion label="Nodes">
        <table>
          <thead>
            <tr>
              <th>Node</th>
              <th class="number">CPUs</th>
              <th class="number">GPUs</th>
            </tr>
          </thead>
          <tbody>
            {nodes.map(({ cpus, gpus }, index) => (
              <tr>
                <th scope="row">{index + 1}</th>
                <td class="number">{cpus}</td>
                <td class="number">{gpus}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </ScrollRegion>
    </section>
  );
}

function Usage({ name, used, total }: { name: string; used: number; total: number | null }) {
  return (
    <Fact name={`${name} in use`}>
      {total !== null && total > 0 && (
        <progress value={Math.min(used, total)} max={total} aria-label={`${name} in use`} />
      )}{" "}
      {number(used, used % 1 ? 2 : 0)} of {total ?? "–"}
    </Fact>
  );
}
