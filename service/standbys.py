"""Standbys: runners that are up before there is a job for them."""

from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service import runners
from service.pools import Pool, Shape
from service.states import JobState, RunnerState
from service.tables import AttemptRow, JobRow, RunnerRow

# A standby that nobody needed for so long, where there are more than there should be.
_SURPLUS = timedelta(seconds=60)
# Where the last one never came up, the next standby waits.
_AFTER_FAILURE = timedelta(seconds=60)
_HISTORY = timedelta(days=1)


def keep(
    session: Session, whole: Pool, *, wanted: int, num_workers: int, lives: int, now: datetime
) -> None:
    """Plans a standby where one is missing and there is room; dismisses what is too much.

    Of the shape that was asked for last; before anybody asked, of `num_workers` workers. The
    caller holds the lock of the cluster's row. While a job waits, the room is the job's; while
    a runner comes up, which an attempt may wait for, so are the processors.
    """
    session.execute(
        delete(RunnerRow).where(
            RunnerRow.state == RunnerState.GONE, RunnerRow.gone_at < now - _HISTORY
        )
    )
    there = runners.all_locked(session)
    standbys = [
        runner
        for runner in there
        if runner.attempt_id is None and runner.state is not RunnerState.LEAVING
    ]
    for runner in sorted(standbys, key=runners.used_at)[: max(0, len(standbys) - wanted)]:
        if now > runners.used_at(runner) + _SURPLUS:
            runners.dismiss(session, runner.id, now=now)
    is_any_coming_up = any(
        runner.state in (RunnerState.PLANNED, RunnerState.STARTING) for runner in there
    )
    if len(standbys) >= wanted or is_any_coming_up:
        return
    if _is_anybody_waiting(session) or _did_last_fail(session, now=now):
        return
    shape = _last_shape(session) or _default_shape(whole, num_workers)
    free = whole
    for runner in there:
        free = free.minus(runners.shape_of(runner).pool)
    if free.holds(shape.pool):
        runners.plan(session, shape, lives=lives, now=now)


def _is_anybody_waiting(session: Session) -> bool:
    statement = select(JobRow.id).where(JobRow.state == JobState.QUEUED).limit(1)
    return session.scalar(statement) is not None


def _did_last_fail(session: Session, *, now: datetime) -> bool:
    statement = (
        select(RunnerRow.id)
        .where(
            RunnerRow.state == RunnerState.GONE,
            RunnerRow.submitted_at.is_not(None),
            RunnerRow.ready_at.is_(None),
            RunnerRow.dismissed_at.is_(None),
            RunnerRow.gone_at > now - _AFTER_FAILURE,
        )
        .limit(1)
    )
    return session.scalar(statement) is not None


def _last_shape(session: Session) -> Shape | None:
    statement = select(AttemptRow).order_by(AttemptRow.created_at.desc()).limit(1)
    attempt = session.scalar(statement)
    return None if attempt is None else runners.shape_of(attempt)


def _default_shape(whole: Pool, num_workers: int) -> Shape:
    return Shape(
        num_workers=num_workers,
        cpus_per_worker=1,
        gpus_per_worker=1 if whole.gpus >= num_workers else 0,
    )
