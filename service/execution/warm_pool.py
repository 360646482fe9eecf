"""Standbys: runners that are up before there is a job for them."""

from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service.execution import runners
from service.resources import ResourceBundle, WorkerGroup
from service.states import JobState, RunnerState
from service.storage.tables import AttemptRow, JobRow, RunnerRow

# A standby that nobody needed for so long, where there are more than there should be.
_IDLE_TIMEOUT = timedelta(seconds=60)
# Where the last one never came up, the next standby waits.
_FAILURE_BACKOFF = timedelta(seconds=60)
_TERMINATED_RETENTION = timedelta(days=1)


def reconcile(
    session: Session,
    whole: ResourceBundle,
    *,
    wanted: int,
    num_workers: int,
    lives: int,
    now: datetime,
) -> None:
    """Plans a standby where one is missing and there is room; dismisses what is too much.

    Of the shape that was asked for last; before anybody asked, of `num_workers` workers. The
    caller holds the lock of the cluster's row. While a job waits, the room is the job's; while
    a runner comes up, which an attempt may wait for, so are the processors.
    """
    session.execute(
        delete(RunnerRow).where(
            RunnerRow.state == RunnerState.TERMINATED,
            RunnerRow.terminated_at < now - _TERMINATED_RETENTION,
        )
    )
    there = runners.lock_all(session)
    standbys = [
        runner
        for runner in there
        if runner.attempt_id is None and runner.state is not RunnerState.DRAINING
    ]
    for runner in sorted(standbys, key=runners.last_used_at)[: max(0, len(standbys) - wanted)]:
        if now > runners.last_used_at(runner) + _IDLE_TIMEOUT:
            runners.drain_runner(session, runner.id, now=now)
    is_any_coming_up = any(
        runner.state in (RunnerState.PLANNED, RunnerState.STARTING) for runner in there
    )
    if len(standbys) >= wanted or is_any_coming_up:
        return
    if _is_any_job_queued(session) or _did_last_start_fail(session, now=now):
        return
    shape = _last_worker_group(session) or _default_worker_group(whole, num_workers)
    free = whole
    for runner in there:
        free = free.minus(runners.worker_group_of(runner).pool)
    if free.holds(shape.pool):
        runners.plan_runner(session, shape, lives=lives, now=now)


def _is_any_job_queued(session: Session) -> bool:
    statement = select(JobRow.id).where(JobRow.state == JobState.QUEUED).limit(1)
    return session.scalar(statement) is not None


def _did_last_start_fail(session: Session, *, now: datetime) -> bool:
    statement = (
        select(RunnerRow.id)
        .where(
            RunnerRow.state == RunnerState.TERMINATED,
            RunnerRow.submitted_at.is_not(None),
            RunnerRow.ready_at.is_(None),
            RunnerRow.draining_since.is_(None),
            RunnerRow.terminated_at > now - _FAILURE_BACKOFF,
        )
        .limit(1)
    )
    return session.scalar(statement) is not None


def _last_worker_group(session: Session) -> WorkerGroup | None:
    statement = select(AttemptRow).order_by(AttemptRow.created_at.desc()).limit(1)
    attempt = session.scalar(statement)
    return None if attempt is None else runners.worker_group_of(attempt)


def _default_worker_group(whole: ResourceBundle, num_workers: int) -> WorkerGroup:
    return WorkerGroup(
        num_workers=num_workers,
        cpus_per_worker=1,
        gpus_per_worker=1 if whole.gpus >= num_workers else 0,
    )
