"""Growth of elastic jobs: which running ones could have more workers, and are worth the restart.

A job grows by an attempt that ends with a checkpoint, and another with more workers. It may where

- no other job could start with what is free: none waits but for a quota or a larger cluster;
- a larger number of workers fits what is free and what the job has, and exceeds no quota;
- it is expected to end earlier by at least `min_seconds` and by three times what a start takes;
- no other job is being resized.

The dispatcher resizes one for which all this has held for a while.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.access import quotas, usage
from service.jobs import commands, lifecycle
from service.scheduling import cluster_state, policy, snapshot
from service.scheduling.estimates import Estimator, TimingProfile
from service.scheduling.policy import EstimateBasis, RunningJob, SchedulerSnapshot, WaitingJob
from service.scheduling.worker_groups import WorkerGroups
from service.specs.quota import list_keys, list_limited_in_hours
from service.states import AttemptState, StopReason
from service.storage.tables import AttemptRow, JobRow
from service.storage.visibility import ALL_ROWS
from service.text import count_of

# A restart must save a multiple of what nine of ten starts take at most.
_STARTS_GAINED = 3.0


@dataclass(frozen=True)
class Growth:
    """`infra_restarts`: of the job, whose nodes may come and go."""

    attempt_id: str
    job_id: str
    num_workers: int
    larger: int
    infra_restarts: int


def is_any_growable(session: Session) -> bool:
    """Whether `list_growths` may find any; without a lock."""
    rows = session.execute(
        select(AttemptRow.num_workers, JobRow.worker_counts)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(AttemptRow.state == AttemptState.RUNNING, AttemptRow.released_at.is_(None))
        .execution_options(**ALL_ROWS)
    )
    return any(num_workers < counts[-1] for num_workers, counts in rows)


def list_growths(
    session: Session, *, min_seconds: float, data_dir: Path, now: datetime
) -> list[Growth]:
    """In the order of the queue."""
    cluster = cluster_state.find_cluster(session)
    if cluster is None:
        return []
    worker_groups, estimator = cluster.make_worker_groups(), Estimator(session)
    found = snapshot.read_snapshot(
        session,
        worker_groups,
        quotas=quotas.read_quotas(session),
        data_dir=data_dir,
        now=now,
        estimator=estimator,
    )
    if _is_any_startable(found) or _is_any_resizing(session):
        return []
    growable = _read_growable(session)
    # A snapshot has the hours of those whose jobs wait.
    keys = [key for job in found.running for key in list_keys(job.user, job.group, job.tags)]
    limited = list_limited_in_hours(found.quotas, keys) if found.quotas else []
    found = replace(found, used=usage.read_usage(session, limited, now=now))
    growths = []
    for job in sorted(found.running, key=lambda job: (job.sort_key, job.job_id)):
        if job.job_id not in growable or job.is_stopping:
            continue
        candidate = growable[job.job_id]
        larger = _find_larger(job, candidate, worker_groups, found)
        if larger is None:
            continue
        saved = _estimate_saved_seconds(candidate, larger, estimator, now=now)
        if saved >= max(min_seconds, _STARTS_GAINED * estimator.estimate_startup().p90):
            restarts = candidate.job.infra_restarts
            growth = Growth(candidate.attempt.id, job.job_id, job.num_workers, larger, restarts)
            growths.append(growth)
    return growths


def request_growth(session: Session, growth: Growth, *, now: datetime) -> bool:
    """Asks the attempt to stop. False where another job is resized, or this one stops, meanwhile.

    The caller holds the lock of the cluster's row.
    """
    if _is_any_resizing(session):
        return False
    job = lifecycle.lock_job(session, growth.job_id)
    attempt = session.get(AttemptRow, growth.attempt_id, populate_existing=True)
    assert attempt is not None
    if attempt.state is not AttemptState.RUNNING or job.stop_requested is not None:
        return False
    message = f"to continue with {count_of(growth.larger, 'worker')}, not {growth.num_workers}"
    commands.resize(session, job, message=message, now=now)
    return True


@dataclass(frozen=True)
class _Growable:
    attempt: AttemptRow
    job: JobRow


def _read_growable(session: Session) -> dict[str, _Growable]:
    """By job, attempts that train with fewer workers than the job may have."""
    rows = session.execute(
        select(AttemptRow, JobRow)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(AttemptRow.state == AttemptState.RUNNING, AttemptRow.released_at.is_(None))
        .execution_options(**ALL_ROWS)
    )
    return {
        job.id: _Growable(attempt, job)
        for attempt, job in rows
        if attempt.num_workers < job.worker_counts[-1]
    }


def _is_any_startable(found: SchedulerSnapshot) -> bool:
    """Whether a job that waits could start with what is free, now or with more of it."""
    running = policy.compute_usage(found.running)
    return any(
        found.capacity.contains(job.resources)
        and policy.find_exceeded_quota(job, running, found) is None
        for job in found.waiting
    )


def _is_any_resizing(session: Session) -> bool:
    """Whether a job was asked to stop for more workers: it shall find what it was asked for."""
    statement = select(JobRow.id).where(JobRow.stop_requested == StopReason.RESIZE).limit(1)
    return session.scalar(statement.execution_options(**ALL_ROWS)) is not None


def _find_larger(
    job: RunningJob, growable: _Growable, worker_groups: WorkerGroups, found: SchedulerSnapshot
) -> int | None:
    """The most workers that the job could have after a stop; None where it has as many."""
    groups = worker_groups.list(growable.job.worker_counts, growable.job)
    waiting = WaitingJob(
        job_id=job.job_id,
        sort_key=job.sort_key,
        priority=job.priority,
        resources=job.resources,
        num_workers=job.num_workers,
        user=job.user,
        group=job.group,
        tags=job.tags,
        has_checkpoint=True,
        is_elastic=True,
        larger=snapshot.list_options(g for g in groups if g.num_workers > job.num_workers),
    )
    others = [other for other in found.running if other.job_id != job.job_id]
    running = policy.compute_usage(others)
    if policy.find_exceeded_quota(waiting, running, found) is not None:
        # Once stopped, the job could not start again.
        return None
    fitting = policy.list_fitting(waiting, found.free + job.resources, running, found)
    largest = next(fitting, waiting).num_workers
    return largest if largest > job.num_workers else None


def _estimate_saved_seconds(
    growable: _Growable, larger: int, estimator: Estimator, *, now: datetime
) -> float:
    """By how much earlier the job would end. 0 before its speed is known.

    By what was measured of such jobs with both numbers of workers; else twice as many workers are
    twice as fast.
    """
    attempt, job = growable.attempt, growable.job
    remaining = estimator.estimate_remaining(attempt, job, now=now)
    if remaining.basis is not EstimateBasis.PROGRESS:
        return 0.0
    measured = [
        estimator.estimate_iteration(TimingProfile.from_row(job, num_workers=count))
        for count in (attempt.num_workers, larger)
    ]
    seconds = [
        estimate.p50
        for estimate in measured
        if estimate is not None and estimate.basis is EstimateBasis.SAME
    ]
    is_measured = len(seconds) == len(measured) and seconds[0] > 0
    share = seconds[1] / seconds[0] if is_measured else attempt.num_workers / larger
    return remaining.p50 * (1 - share)
