"""Retention: checkpoints by the spec of their job, other records by the settings; deletion of jobs.

Rows are deleted before artifacts: a row must never refer to bytes that no longer exist.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, exists, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.errors import Conflict
from service.jobs import checkpoints, lifecycle, model_versions, records, warm_start
from service.settings import RecordRetention
from service.specs.job_spec import Retention
from service.storage import changes
from service.storage.tables import (
    IS_LEASED,
    AttemptRow,
    CheckpointRow,
    JobEventRow,
    JobRow,
    LogRow,
    MetricBucketRow,
    MetricRow,
    TrialRow,
)
from service.storage.visibility import find_visible

# Of each kind of record: bounds the time for which a deletion blocks other transactions.
_JOBS_PER_SWEEP = 20


def delete_superseded(session: Session, job: JobRow) -> list[str]:
    """Deletes checkpoints that the job's retention does not keep.

    Returns the keys of artifacts to delete after the commit.
    """
    newest_first = checkpoints.list_checkpoints(session, job.id)
    kept = select_kept(newest_first, records.retention_of(job))
    superseded = {checkpoint.id for checkpoint in newest_first} - kept
    kept |= warm_start.find_dependent_jobs(session, superseded).keys()
    kept |= model_versions.find_registered(session, superseded)
    kept_keys: set[str] = set()
    dropped_keys: set[str] = set()
    for checkpoint in newest_first:
        keys = {file.key for file in checkpoints.files_of(checkpoint).values()}
        if checkpoint.id in kept:
            kept_keys |= keys
        else:
            dropped_keys |= keys
            session.delete(checkpoint)
    return sorted(dropped_keys - kept_keys)


def select_kept(newest_first: list[CheckpointRow], retention: Retention) -> set[str]:
    """Ids of the checkpoints to keep. Without a selection error none is among the best."""
    measured = [
        (row.selection_error, row.iteration, row.id)
        for row in newest_first
        if row.selection_error is not None
    ]
    kept = [row.id for row in newest_first[: retention.keep_newest]]
    kept += [row_id for *_, row_id in sorted(measured)[: retention.keep_best]]
    if retention.keep_every is not None:
        kept += [row.id for row in newest_first if row.iteration % retention.keep_every == 0]
    return set(kept)


def delete_job(session: Session, job_id: str) -> list[str]:
    """Deletes a final job and all its rows. Conflict while something still needs it.

    Returns the ids of its attempts, whose artifacts to delete after the commit.
    """
    job = lifecycle.lock_job(session, job_id)
    if not job.state.is_final:
        raise Conflict(f"job {job.id} is {job.state}; cancel it first")
    search_id = session.scalar(select(TrialRow.search_id).where(TrialRow.job_id == job.id))
    if search_id is not None:
        raise Conflict(f"job {job.id} is a trial of search {search_id}; delete the search")
    attempts = session.scalars(select(AttemptRow).where(AttemptRow.job_id == job.id)).all()
    if any(attempt.released_at is None for attempt in attempts):
        raise Conflict(f"the processes of job {job.id} have not exited yet; try again")
    checkpoint_ids = [row.id for row in checkpoints.list_checkpoints(session, job.id)]
    dependents = sorted(set(warm_start.find_dependent_jobs(session, checkpoint_ids).values()))
    if dependents:
        visible = sorted(find_visible(session, JobRow, dependents))
        dependent = f"job {visible[0]}" if visible else "another job"
        raise Conflict(f"{dependent} starts from a checkpoint of job {job.id} and has not ended")
    model_versions.require_unregistered(session, job)
    session.execute(delete(JobRow).where(JobRow.id == job.id))
    # No event is left to do so.
    changes.notify(session, job.id)
    return [attempt.id for attempt in attempts]


@dataclass(frozen=True)
class ExpiredRecords:
    """Records of some jobs that are not kept: by job id, all logs, events or metrics.

    `long_logs`: by job id, the number of the newest log line that is not kept.
    """

    logs: Sequence[str]
    events: Sequence[str]
    metrics: Sequence[str]
    long_logs: Mapping[str, int]

    @property
    def num_jobs(self) -> int:
        return len({*self.logs, *self.events, *self.metrics, *self.long_logs})


def find_expired(
    session: Session, keep: RecordRetention, *, since: datetime | None, now: datetime
) -> ExpiredRecords:
    """The expired records of some jobs; without a lock.

    `since`: the time for which an earlier call found nothing; None: there was none.
    """
    return ExpiredRecords(
        logs=_find_expired_jobs(session, LogRow.job_id, keep.logs_days, since=since, now=now),
        events=_find_expired_jobs(
            session, JobEventRow.subject_id, keep.events_days, since=since, now=now
        ),
        metrics=_find_expired_jobs(
            session, MetricRow.job_id, keep.metrics_days, since=since, now=now
        ),
        long_logs=_find_long_logs(session, keep.log_lines, since=since),
    )


def delete_expired(session: Session, expired: ExpiredRecords) -> None:
    session.execute(delete(LogRow).where(LogRow.job_id.in_(expired.logs)))
    session.execute(delete(JobEventRow).where(JobEventRow.subject_id.in_(expired.events)))
    session.execute(delete(MetricRow).where(MetricRow.job_id.in_(expired.metrics)))
    session.execute(delete(MetricBucketRow).where(MetricBucketRow.job_id.in_(expired.metrics)))
    for job_id, number in expired.long_logs.items():
        session.execute(delete(LogRow).where(LogRow.job_id == job_id, LogRow.number <= number))


def _find_expired_jobs(
    session: Session,
    job_id_column: InstrumentedAttribute[str],
    days: float | None,
    *,
    since: datetime | None,
    now: datetime,
) -> Sequence[str]:
    if days is None:
        return ()
    age = timedelta(days=days)
    has_rows = exists().where(job_id_column == JobRow.id)
    statement = select(JobRow.id).where(JobRow.finished_at < now - age, has_rows)
    if since is not None:
        statement = statement.where(JobRow.finished_at >= since - age)
    return session.scalars(statement.limit(_JOBS_PER_SWEEP)).all()


def _find_long_logs(
    session: Session, kept_lines: int, *, since: datetime | None
) -> Mapping[str, int]:
    last_dropped = (JobRow.log_line_count - kept_lines).label("last_dropped")
    has_rows = exists().where(LogRow.job_id == JobRow.id, LogRow.number <= last_dropped)
    statement = select(JobRow.id, last_dropped).where(JobRow.log_line_count > kept_lines, has_rows)
    if since is not None:
        # Only these have logged since then.
        active = select(AttemptRow.job_id).where(IS_LEASED)
        ended = select(AttemptRow.job_id).where(AttemptRow.ended_at >= since)
        statement = statement.where(JobRow.id.in_(active.union_all(ended)))
    found = session.execute(statement.limit(_JOBS_PER_SWEEP))
    return {row.id: row.last_dropped for row in found}
