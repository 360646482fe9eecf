"""The warm pool: runners that are up before a job needs them."""

from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service.execution import runners
from service.resources import ResourceBundle, WorkerGroup
from service.states import JobState, RayJobState
from service.storage.tables import AttemptRow, JobRow, RunnerRow

# A warm runner beyond the target that was unused for so long is drained.
_IDLE_TIMEOUT = timedelta(seconds=60)
# After a runner that never became ready, no warm runner is planned for so long.
_FAILURE_BACKOFF = timedelta(seconds=60)
_TERMINATED_RETENTION = timedelta(days=1)


def reconcile(
    session: Session,
    capacity: ResourceBundle,
    *,
    target: int,
    default_num_workers: int,
    max_attempts: int,
    now: datetime,
) -> None:
    """Plans a warm runner where fewer than `target` exist and one fits; drains surplus ones.

    It gets the workers of the newest attempt; before the first one `default_num_workers`.
    None is planned while a job is queued, which takes the free resources first, nor while a
    runner starts, which an attempt may wait for, and which keeps the processors busy. The caller
    holds the lock of the cluster's row. `capacity`: all that the cluster has.
    """
    _delete_old_runners(session, now=now)
    existing = runners.lock_runners(session)
    warm_runners = [
        runner
        for runner in existing
        if runner.attempt_id is None and runner.state is not RayJobState.DRAINING
    ]
    surplus = max(0, len(warm_runners) - target)
    for runner in sorted(warm_runners, key=runners.last_used_at)[:surplus]:
        if now > runners.last_used_at(runner) + _IDLE_TIMEOUT:
            runners.drain_runner(session, runner.id, now=now)
    is_any_starting = any(
        runner.state in (RayJobState.PLANNED, RayJobState.STARTING) for runner in existing
    )
    if len(warm_runners) >= target or is_any_starting:
        return
    if _is_any_job_queued(session) or _did_last_start_fail(session, now=now):
        return
    worker_group = _find_newest_worker_group(session) or _make_default_worker_group(
        capacity, default_num_workers
    )
    free = capacity
    for runner in existing:
        free -= runners.worker_group_of(runner).resources
    if free.contains(worker_group.resources):
        runners.plan_runner(session, worker_group, max_attempts=max_attempts, now=now)


def _delete_old_runners(session: Session, *, now: datetime) -> None:
    session.execute(
        delete(RunnerRow).where(
            RunnerRow.state == RayJobState.TERMINATED,
            RunnerRow.terminated_at < now - _TERMINATED_RETENTION,
        )
    )


def _is_any_job_queued(session: Session) -> bool:
    statement = select(JobRow.id).where(JobRow.state == JobState.QUEUED).limit(1)
    return session.scalar(statement) is not None


def _did_last_start_fail(session: Session, *, now: datetime) -> bool:
    statement = (
        select(RunnerRow.id)
        .where(
            RunnerRow.state == RayJobState.TERMINATED,
            RunnerRow.submitted_at.is_not(None),
            RunnerRow.ready_at.is_(None),
            RunnerRow.draining_since.is_(None),
            RunnerRow.terminated_at > now - _FAILURE_BACKOFF,
        )
        .limit(1)
    )
    return session.scalar(statement) is not None


def _find_newest_worker_group(session: Session) -> WorkerGroup | None:
    statement = select(AttemptRow).order_by(AttemptRow.created_at.desc()).limit(1)
    attempt = session.scalar(statement)
    return None if attempt is None else runners.worker_group_of(attempt)


def _make_default_worker_group(capacity: ResourceBundle, num_workers: int) -> WorkerGroup:
    return WorkerGroup(
        num_workers=num_workers,
        cpus_per_worker=1,
        gpus_per_worker=1 if capacity.gpus >= num_workers else 0,
    )
