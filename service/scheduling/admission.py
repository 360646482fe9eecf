"""Admission: gives the next job to a dispatcher under a lease, or preempts others for it."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Row, func, or_, select
from sqlalchemy.orm import Session

from service.access import quotas
from service.errors import NotFound
from service.execution import runners
from service.jobs import checkpoints, commands, lifecycle, records, warm_start
from service.resources import ResourceBundle
from service.scheduling import cluster_state, fair_share, policy, snapshot
from service.scheduling.leases import Claim
from service.scheduling.policy import PreemptJobs, StartJob
from service.specs.job_spec import StartMode
from service.specs.quota import Quota
from service.states import AttemptState, JobState, Reason
from service.storage import events
from service.storage.events import EventKind
from service.storage.tables import AttemptRow, JobRow


def is_any_eligible(session: Session, *, now: datetime) -> bool:
    """Whether `claim_next_job` may find a job; without a lock."""
    return session.execute(snapshot.select_eligible(now).limit(1)).first() is not None


def claim_next_job(
    session: Session,
    *,
    owner: str,
    now: datetime,
    lease_seconds: float,
    data_dir: Path,
    attempts_per_runner: int = 1,
) -> Claim | None:
    """Starts an attempt of the next job on a runner, as the policy decides; None: all must wait.

    Dispatchers decide one after the other, under the lock of the cluster's row, so that none
    assigns resources that another has assigned. Where a more urgent job needs the resources of
    preemptible jobs, those are asked to stop.
    """
    capacity = cluster_state.lock_cluster(session)
    if capacity is None:
        return None
    fair_share.refresh_points(session, capacity, now=now)
    known = quotas.read_quotas(session)
    lease = _Lease(owner=owner, expires_at=now + timedelta(seconds=lease_seconds))
    while True:
        first = session.execute(snapshot.select_eligible(now).limit(1)).first()
        if first is None:
            return None
        decision = _decide(session, capacity, first, known=known, data_dir=data_dir, now=now)
        if isinstance(decision, PreemptJobs):
            _preempt(session, decision, now=now)
        if not isinstance(decision, StartJob):
            return None
        job = _lock_queued(session, decision.job_id)
        if job is None:
            return None
        message = _find_start_error(session, job)
        if message is not None:
            reason = Reason.INTERNAL
            lifecycle.transition(
                session, job, JobState.FAILED, reason=reason, message=message, now=now
            )
            session.flush()
            continue
        attempt = _create_attempt(session, job, capacity, lease=lease, now=now)
        if decision.backfill_seconds is not None:
            attempt.backfill_deadline = now + timedelta(seconds=decision.backfill_seconds)
        runner = runners.assign_runner(session, attempt, max_attempts=attempts_per_runner, now=now)
        return Claim(
            attempt_id=attempt.id, fencing_token=attempt.fencing_token, runner_id=runner.id
        )


def find_next_retry_at(session: Session, *, now: datetime) -> datetime | None:
    """When the first of the jobs whose backoff is not over may start; None where none waits."""
    return session.scalar(
        select(func.min(JobRow.not_before)).where(
            JobRow.state == JobState.QUEUED, JobRow.not_before > now
        )
    )


@dataclass(frozen=True)
class _Lease:
    owner: str
    expires_at: datetime


def _decide(
    session: Session,
    capacity: ResourceBundle,
    first: Row[tuple[Any, ...]],
    *,
    known: dict[str, Quota],
    data_dir: Path,
    now: datetime,
) -> StartJob | PreemptJobs | None:
    """Reads the complete snapshot, with its estimates, only where the decision depends on it."""
    if not known:
        free = capacity - cluster_state.sum_reserved(session)
        if free.contains(snapshot.choose_worker_group(capacity, first).resources):
            return StartJob(first.id)
        # Each state change wakes dispatchers, and usually the cluster is full.
        if free.cpus < 1 and not _is_any_preemptible(session):
            return None
    found = snapshot.read_snapshot(session, capacity, quotas=known, data_dir=data_dir, now=now)
    return policy.decide(found)


def _is_any_preemptible(session: Session) -> bool:
    """Whether the policy could choose any running job as a victim."""
    statement = (
        select(AttemptRow.id)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(
            AttemptRow.released_at.is_(None),
            or_(JobRow.preemptible, AttemptRow.backfill_deadline.is_not(None)),
        )
        .limit(1)
    )
    return session.scalar(statement) is not None


def _preempt(session: Session, decision: PreemptJobs, *, now: datetime) -> None:
    for job_id in sorted(decision.victims):
        job = lifecycle.lock_job(session, job_id)
        is_running = job.state in {JobState.STARTING, JobState.RUNNING}
        if is_running and job.stop_requested is None:
            commands.preempt(session, job, by=decision.job_id, now=now)


def _lock_queued(session: Session, job_id: str) -> JobRow | None:
    """None where the job left the queue, or is locked: that transaction's commit wakes us."""
    return session.scalar(
        select(JobRow)
        .where(JobRow.id == job_id, JobRow.state == JobState.QUEUED)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )


def _find_start_error(session: Session, job: JobRow) -> str | None:
    """Why no attempt of the job can begin; None where one can."""
    try:
        records.spec_of(job)
        warm_start.find_source_checkpoint(session, job)
        warm_start.find_other_checkpoints(session, job)
    except ValidationError as error:
        return f"this version of the service cannot read the job's spec: {error}"
    except NotFound as error:
        return None if job.checkpointed_iteration > 0 else str(error)
    return None


def _create_attempt(
    session: Session, job: JobRow, capacity: ResourceBundle, *, lease: _Lease, now: datetime
) -> AttemptRow:
    job.attempts += 1
    start = _find_start_point(session, job)
    worker_group = snapshot.choose_worker_group(capacity, job)
    attempt = AttemptRow(
        id=f"{job.id}-a{job.attempts}",
        job_id=job.id,
        number=job.attempts,
        state=AttemptState.STARTING,
        owner=lease.owner,
        fencing_token=1,
        lease_expires_at=lease.expires_at,
        num_workers=worker_group.num_workers,
        cpus_per_worker=worker_group.cpus_per_worker,
        gpus_per_worker=worker_group.gpus_per_worker,
        resume_checkpoint_id=start.checkpoint_id,
        first_iteration=start.iteration or 0,
        created_at=now,
        last_sequence=0,
    )
    session.add(attempt)
    session.flush()
    data = {"number": attempt.number, "resumed_at": start.iteration}
    events.append_event(session, job, EventKind.ATTEMPT, data, now=now)
    lifecycle.transition(session, job, JobState.STARTING, now=now)
    return attempt


@dataclass(frozen=True)
class _StartPoint:
    """Where an attempt begins; `iteration` None: at the first, perhaps with given weights."""

    checkpoint_id: str | None = None
    iteration: int | None = None


def _find_start_point(session: Session, job: JobRow) -> _StartPoint:
    """From the job's own newest checkpoint, or else from another job's."""
    if (
        job.checkpointed_iteration > 0
        and (newest := checkpoints.find_newest(session, job.id)) is not None
    ):
        return _StartPoint(newest.id, newest.iteration)
    source = warm_start.find_source_checkpoint(session, job)
    if source is None:
        return _StartPoint()
    start = records.spec_of(job).start_from
    is_continued = start is not None and start.mode is StartMode.CONTINUE
    return _StartPoint(source.id, source.iteration if is_continued else None)
