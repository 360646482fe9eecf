/** The tree of jobs: those whose checkpoints a job started from, and those that started from its own. */
import { number } from "../lib/format";
import { type LineageJob, MODES, treeOf } from "../lib/lineage";
import { State } from "./state";

export function Lineage({ jobs, jobId }: { jobs: readonly LineageJob[]; jobId: string }) {
  const [first] = jobs;
  if (!first || (jobs.length < 2 && !first.source)) return null;
  return (
    <section class="section" aria-label="Tree of jobs">
      <header>
        <h2>Tree of jobs</h2>
        <span class="muted">each below the job from whose checkpoint it started</span>
      </header>
      <ol class="tree">
        {first.source && (
          <li class="muted">
            a deleted job, <code>{first.source.job_id}</code>
          </li>
        )}
        {treeOf(jobs).map(({ job, depth }) => (
          <li
            key={job.id}
            aria-current={job.id === jobId ? "true" : undefined}
            style={{ paddingLeft: `${20 * (depth + (first.source ? 1 : 0))}px` }}
          >
            {job.id === jobId ? (
              <strong>{job.name}</strong>
            ) : (
              <a href={`/jobs/${job.id}`}>{job.name}</a>
            )}
            <State state={job.state} />
            {job.source && (
              <span class="muted">
                {MODES[job.source.mode]}, from iteration {number(job.source.iteration)}
              </span>
            )}
          </li>
        ))}
      </ol>
    </section>
  );
}
