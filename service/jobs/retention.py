"""Retention: checkpoints by the spec of their job, other records by the settings; deletion of jobs.

Rows are deleted before artifacts: a row must never refer to bytes that no longer exist.
"""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, exists, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.errors import Conflict
from service.jobs import checkpoints, lifecycle, records, warm_start
from service.notifications import webhooks
from service.settings import RecordRetention
from service.specs.job_spec import Retention
from service.states import FINAL_STATES
from service.storage.tables import (
    AttemptRow,
    CheckpointRow,
    JobEventRow,
    JobRow,
    LogRow,
    MetricRow,
    TrialRow,
)

# Of each kind of record: bounds the time for which a sweep blocks other transactions.
_JOBS_PER_SWEEP = 20


def delete_superseded(session: Session, job: JobRow) -> list[str]:
    """Deletes checkpoints that the job's retention does not keep.

    Returns the keys of artifacts to delete after the commit.
    """
    newest_first = checkpoints.list_checkpoints(session, job.id)
    kept = select_kept(newest_first, records.retention_of(job))
    superseded = {checkpoint.id for checkpoint in newest_first} - kept
    kept |= warm_start.find_dependent_jobs(session, superseded).keys()
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
    """Ids of the checkpoints to keep. A checkpoint without a test error is never among the best."""
    measured = [
        (row.test_error, row.iteration, row.id)
        for row in newest_first
        if row.test_error is not None
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
        raise Conflict(
            f"job {dependents[0]} starts from a checkpoint of job {job.id} and has not ended"
        )
    session.execute(delete(JobRow).where(JobRow.id == job.id))
    return [attempt.id for attempt in attempts]


def delete_expired(session: Session, keep: RecordRetention, *, now: datetime) -> int:
    """Deletes expired records of some jobs. Returns their number; call it until that is 0."""
    webhooks.delete_old_deliveries(session, now=now)
    swept = 0
    for job_id_column, days in (
        (LogRow.job_id, keep.logs_days),
        (JobEventRow.subject_id, keep.events_days),
        (MetricRow.job_id, keep.metrics_days),
    ):
        if days is None:
            continue
        is_expired = JobRow.finished_at < now - timedelta(days=days)
        swept += _delete_rows(session, job_id_column, JobRow.state.in_(FINAL_STATES), is_expired)
    return swept + _trim_logs(session, keep.log_lines)


def _delete_rows(
    session: Session, job_id_column: InstrumentedAttribute[str], *conditions: ColumnElement[bool]
) -> int:
    has_rows = exists().where(job_id_column == JobRow.id)
    job_ids = session.scalars(
        select(JobRow.id).where(*conditions, has_rows).limit(_JOBS_PER_SWEEP)
    ).all()
    session.execute(delete(job_id_column.class_).where(job_id_column.in_(job_ids)))
    return len(job_ids)


def _trim_logs(session: Session, kept_lines: int) -> int:
    last_dropped = JobRow.log_line_count - kept_lines
    has_rows = exists().where(LogRow.job_id == JobRow.id, LogRow.number <= last_dropped)
    found = session.execute(
        select(JobRow.id, last_dropped)
        .where(JobRow.log_line_count > kept_lines, has_rows)
        .limit(_JOBS_PER_SWEEP)
    ).all()
    for job_id, number in found:
        session.execute(delete(LogRow).where(LogRow.job_id == job_id, LogRow.number <= number))
    return len(found)
