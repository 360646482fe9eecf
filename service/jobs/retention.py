"""What is kept and for how long: checkpoints by their job's spec, records by the settings."""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, exists, select
from sqlalchemy.orm import Session

from service.errors import Conflict
from service.jobs import checkpoints, lifecycle, records, warm_start
from service.notifications import webhooks
from service.settings import RecordRetention
from service.specs.job_spec import Retention
from service.states import FINAL_STATES
from service.storage.tables import (
    AttemptRow,
    CheckpointRow,
    EventRow,
    JobRow,
    LogRow,
    MetricRow,
    TrialRow,
)

# Jobs in one sweep: its transaction must not keep others waiting.
_JOBS_PER_SWEEP = 20


def delete_superseded(session: Session, job: JobRow) -> list[str]:
    """Forgets what the job's spec does not keep; the keys that may be deleted after the commit.

    Rows go first: a row must never promise bytes that are gone.
    """
    known = checkpoints.list_checkpoints(session, job.id)
    kept = select_kept(known, records.spec_of(job).retention)
    kept |= warm_start.find_dependent_jobs(session, {row.id for row in known} - kept).keys()
    dropped = [checkpoint for checkpoint in known if checkpoint.id not in kept]
    still_used = {part["key"] for row in known if row.id in kept for part in row.parts.values()}
    for checkpoint in dropped:
        session.delete(checkpoint)
    keys = {part["key"] for row in dropped for part in row.parts.values()}
    return sorted(keys - still_used)


def select_kept(newest_first: list[CheckpointRow], rule: Retention) -> set[str]:
    """Of all checkpoints of a job. What was never measured is no best one."""
    measured = [
        (row.test_error, row.iteration, row.id)
        for row in newest_first
        if row.test_error is not None
    ]
    kept = [row.id for row in newest_first[: rule.keep_newest]]
    kept += [row_id for *_, row_id in sorted(measured)[: rule.keep_best]]
    if rule.keep_every is not None:
        kept += [row.id for row in newest_first if row.iteration % rule.keep_every == 0]
    return set(kept)


def delete_job(session: Session, job_id: str) -> list[str]:
    """Forgets a final job with all that belongs to it; its attempts, whose artifacts may go then.

    Conflict while it is not final, or its processes are not cleared away.
    """
    job = lifecycle.lock_job(session, job_id)
    if not job.state.is_final:
        raise Conflict(f"job {job.id} is {job.state}; cancel it first")
    search_id = session.scalar(select(TrialRow.search_id).where(TrialRow.job_id == job.id))
    if search_id is not None:
        raise Conflict(f"job {job.id} is a trial of search {search_id}, and is deleted with it")
    attempts = session.scalars(select(AttemptRow).where(AttemptRow.job_id == job.id)).all()
    if any(attempt.released_at is None for attempt in attempts):
        raise Conflict(f"the processes of job {job.id} are still being cleared away")
    needed = warm_start.find_dependent_jobs(
        session, [row.id for row in checkpoints.list_checkpoints(session, job.id)]
    )
    if needed:
        waiting = ", ".join(sorted(set(needed.values())))
        raise Conflict(f"job {waiting} starts from a checkpoint of job {job.id} and has not ended")
    session.execute(delete(JobRow).where(JobRow.id == job.id))
    return [attempt.id for attempt in attempts]


def delete_expired(session: Session, keep: RecordRetention, *, now: datetime) -> int:
    """Deletes old records of some jobs; how many jobs had any. Call it until it answers 0."""
    webhooks.delete_old_deliveries(session, now=now)
    swept = 0
    for table, days in (
        (LogRow, keep.logs_days),
        (EventRow, keep.events_days),
        (MetricRow, keep.metrics_days),
    ):
        if days is None:
            continue
        is_old = JobRow.finished_at < now - timedelta(days=days)
        swept += _delete_rows(session, table, JobRow.state.in_(FINAL_STATES), is_old)
    return swept + _trim_logs(session, keep.log_lines)


def _delete_rows(
    session: Session,
    table: type[LogRow | EventRow | MetricRow],
    *conditions: ColumnElement[bool],
) -> int:
    has_any = exists().where(table.job_id == JobRow.id)
    job_ids = session.scalars(
        select(JobRow.id).where(*conditions, has_any).limit(_JOBS_PER_SWEEP)
    ).all()
    session.execute(delete(table).where(table.job_id.in_(job_ids)))
    return len(job_ids)


def _trim_logs(session: Session, kept_lines: int) -> int:
    newest_cut = JobRow.log_line_count - kept_lines
    has_any = exists().where(LogRow.job_id == JobRow.id, LogRow.number <= newest_cut)
    found = session.execute(
        select(JobRow.id, newest_cut)
        .where(JobRow.log_line_count > kept_lines, has_any)
        .limit(_JOBS_PER_SWEEP)
    ).all()
    for job_id, number in found:
        session.execute(delete(LogRow).where(LogRow.job_id == job_id, LogRow.number <= number))
    return len(found)
