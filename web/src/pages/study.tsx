/** One study: results over seeds beside the paper's, tested differences, curves, and files. */
import type { Schemas } from "../api/client";
import { EmptyNote, ErrorNote } from "../components/notes";
import { ScrollRegion } from "../components/scroll-region";
import { Share } from "../components/share";
import { State } from "../components/state";
import { exported } from "../lib/exported";
import { count, number } from "../lib/format";
import { source, useLive } from "../lib/live";
import { COLUMNS, spread, verdictOf } from "../lib/study";
import { useTitle } from "../lib/title";
import { mayChange } from "../session";

type Report = Schemas["StudyReportView"];
type Member = Schemas["MemberView"];
type Ensemble = Schemas["StudyEnsembleView"];

const FORMATS = [
  ["md", "Markdown"],
  ["tex", "LaTeX"],
  ["csv", "CSV"],
  ["svg", "SVG"],
  ["png", "PNG"],
] as const;

export function StudyPage({ id }: { id: string }) {
  const live = useLive(source("/v1/studies/{study_id}", { path: { study_id: id } }));
  const study = live.data.value;
  useTitle(study?.title ?? "Study");
  if (!study)
    return (
      <>
        <h1>Study</h1>
        <ErrorNote error={live.error.value} />
        {live.error.value?.status === 404 && (
          <EmptyNote title="It may have been deleted.">
            <a href="/studies">Go to the studies</a>
          </EmptyNote>
        )}
      </>
    );
  const report = `/v1/studies/${study.id}/report`;
  // Another number of finished jobs is another picture.
  const figure = `${report}?format=svg&finished=${study.finished}`;
  const jobs = study.members.flatMap((member) => member.jobs.map((job) => job.job_id));
  const compared = new URLSearchParams(
    jobs.filter((job): job is string => job !== null).map((job) => ["job", job]),
  );
  return (
    <>
      <div class="head">
        <h1>{study.title}</h1>
        <div class="end">
          {!exported && (
            <a class="button" href={`/v1/studies/${study.id}/export`} download>
              Save as HTML
            </a>
          )}
          {mayChange(study.user) && <Share subject={{ study: study.id }} />}
          <a class="button" href={`/compare?${compared}`}>
            Compare the jobs
          </a>
        </div>
      </div>
      <ErrorNote error={live.error.value} />
      <p>
        {study.total > 0 && (
          <progress
            value={study.finished}
            max={study.total}
            aria-label="Finished jobs of the study"
          />
        )}{" "}
        {study.origin}
      </p>
      {study.notes && <p class="muted">{study.notes}</p>}
      <Results study={study} />
      <AnalysedMembers study={study} />
      <Differences study={study} />
      <section class="section">
        <h2>Figure</h2>
        {study.finished === 0 ? (
          <EmptyNote title="No job has finished yet.">
            <a href={`/compare?${compared}`}>Compare</a> has the curves of running jobs.
          </EmptyNote>
        ) : (
          <img
            class="figure"
            src={exported?.pictures[report] ?? figure}
            alt="Figure of the study; its numbers are in the tables above"
          />
        )}
        <p>
          Report as{" "}
          {FORMATS.map(([format, title], index) => (
            <>
              {index > 0 && ", "}
              <a href={`${report}?format=${format}`} download>
                {title}
              </a>
            </>
          ))}
          {study.source && <span class="muted">. The paper's numbers: {study.source}</span>}
        </p>
      </section>
    </>
  );
}

function Results({ study }: { study: Report }) {
  return (
    <ScrollRegion label="Results">
      <table>
        <thead>
          <tr>
            <th>Network</th>
            <th class="number">Parameters</th>
            {study.columns.map((column) => (
              <>
                <th class="number">{COLUMNS[column]}</th>
                <th class="number">Paper</th>
              </>
            ))}
            <th>Jobs</th>
          </tr>
        </thead>
        <tbody>
          {study.members.map((member) => (
            <Row key={member.label} row={member} network={member.network} study={study} />
          ))}
          {study.ensembles.map((ensemble) => (
            <Row
              key={ensemble.label}
              row={ensemble}
              network={`mean of ${ensemble.members.join(", ")}`}
              study={study}
            />
          ))}
          {Object.entries(study.paper_only).map(([label, values]) => (
            <tr class="muted">
              <td>{label}</td>
              <td />
              {study.columns.map((column) => (
                <>
                  <td />
                  <td class="number">{spread(values[column])}</td>
                </>
              ))}
              <td>the paper only</td>
            </tr>
          ))}
        </tbody>
      </table>
    </ScrollRegion>
  );
}

function Row({ row, network, study }: { row: Member | Ensemble; network: string; study: Report }) {
  return (
    <tr>
      <td title={network}>{row.label}</td>
      <td class="number">{"parameters" in row && count(row.parameters)}</td>
      {study.columns.map((column) => {
        const cell = row.results[column];
        return (
          <>
            <td class="number">
              {spread(cell?.statistics)}
              {cell?.statistics && <span class="muted"> (n = {number(cell.statistics.n)})</span>}
            </td>
            <td class="number" title={cell?.verdict ?? undefined}>
              {spread(cell?.paper)}
              {cell?.verdict && <span class="muted"> {verdictOf(cell)}</span>}
            </td>
          </>
        );
      })}
      <td>
        {row.jobs.map((job) => (
          <Job job={job} />
        ))}
      </td>
    </tr>
  );
}

function AnalysedMembers({ study }: { study: Report }) {
  const rows = study.members.flatMap((member) =>
    member.analyses.map((analysis) => ({ label: member.label, analysis })),
  );
  if (rows.length === 0) return null;
  return (
    <section class="section">
      <h2>Analyses of the last checkpoints</h2>
      <ScrollRegion label="Analyses">
        <table>
          <thead>
            <tr>
              <th>Network</th>
              <th>Analysis</th>
              <th>Result</th>
              <th>Jobs</th>
            </tr>
          </thead>
          <tbody>
            {rows.map(({ label, analysis }) => (
              <tr>
                <td>{label}</td>
                <td>{analysis.name}</td>
                <td>
                  {Object.entries(analysis.numbers)
                    .map(([name, found]) => `${name.replaceAll("_", " ")} ${spread(found)}`)
                    .join(", ")}
                </td>
                <td>
                  {analysis.jobs.length === 0 && <span class="muted">after the training</span>}
                  {analysis.jobs.map((job) => (
                    <Job job={job} />
                  ))}
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </ScrollRegion>
    </section>
  );
}

function Job({ job }: { job: Schemas["MemberJobView"] }) {
  return job.job_id && job.state ? (
    <a href={`/jobs/${job.job_id}`} title={`seed ${job.seed}: ${job.state}`}>
      <State state={job.state} />{" "}
    </a>
  ) : (
    <span class="muted">deleted </span>
  );
}

function Differences({ study }: { study: Report }) {
  if (study.differences.length === 0) return null;
  return (
    <section class="section">
      <h2>Differences over pairs of equal seeds</h2>
      <ul>
        {study.differences.map((difference) => (
          <li>
            {difference.text}
            {difference.agrees !== null && (
              <strong class={difference.agrees ? "good" : "bad"}>
                {difference.agrees ? " As in the paper." : " The opposite of the paper."}
              </strong>
            )}
          </li>
        ))}
      </ul>
    </section>
  );
}
