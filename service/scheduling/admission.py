"""Admission: gives the next job to a dispatcher under a lease, or makes room for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Row, or_, select
from sqlalchemy.orm import Session

from service.errors import NotFound
from service.execution import runners
from service.jobs import checkpoints, commands, events, lifecycle, records, warm_start
from service.jobs.events import EventKind
from service.resources import ResourceBundle
from service.scheduling import cluster_state, policy, snapshot
from service.scheduling.leases import Claim
from service.scheduling.policy import PreemptJobs, SchedulerSnapshot, StartJob
from service.settings import ConcurrencyLimit
from service.specs.job_spec import StartMode
from service.states import AttemptState, JobState, Reason
from service.storage.tables import AttemptRow, JobRow


def claim_next_job(
    session: Session,
    *,
    owner: str,
    now: datetime,
    lease_seconds: float,
    limits: Mapping[str, ConcurrencyLimit],
    runner_lives: int = 1,
) -> Claim | None:
    """The next job with all its workers, as `service.schedule` decides; None if all must wait.

    Dispatchers decide one after the other, so that they never give away the same CPU. Where a
    more urgent job needs the room of preemptible ones, those are asked to stop. A runner
    that is planned for the job will run `runner_lives` attempts.
    """
    whole = cluster_state.lock_cluster(session)
    if whole is None:
        return None
    lease = _Lease(owner=owner, expires_at=now + timedelta(seconds=lease_seconds))
    while True:
        first = session.execute(snapshot.select_eligible(now).limit(1)).first()
        if first is None:
            return None
        decision = _decide(session, whole, first, limits=limits, now=now)
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
        attempt = _create_attempt(
            session, job, _required_resources(whole, job), lease=lease, now=now
        )
        if decision.backfill_seconds is not None:
            attempt.backfill_deadline = now + timedelta(seconds=decision.backfill_seconds)
        runner = runners.assign_runner(session, attempt, lives=runner_lives, now=now)
        return Claim(
            attempt_id=attempt.id, fencing_token=attempt.fencing_token, runner_id=runner.id
        )


def _required_resources(
    whole: ResourceBundle, job: JobRow | Row[tuple[Any, ...]]
) -> ResourceBundle:
    return snapshot.required_resources(
        whole,
        num_workers=job.num_workers,
        cpus_per_worker=job.cpus_per_worker,
        gpus_per_worker=job.gpus_per_worker,
    )


def _lock_queued(session: Session, job_id: str) -> JobRow | None:
    """The queued job; None where somebody changes it at this moment, whose commit wakes us."""
    return session.scalar(
        select(JobRow)
        .where(JobRow.id == job_id, JobRow.state == JobState.QUEUED)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )


@dataclass(frozen=True)
class _Lease:
    owner: str
    expires_at: datetime


def _find_start_error(session: Session, job: JobRow) -> str | None:
    """Why no attempt of the job could begin; None: one can."""
    try:
        records.spec_of(job)
        warm_start.find_source_checkpoint(session, job)
    except ValidationError as error:
        return f"this version of the service cannot read the job's spec: {error}"
    except NotFound as error:
        return None if job.checkpointed_iteration > 0 else str(error)
    return None


def _decide(
    session: Session,
    whole: ResourceBundle,
    first: Row[tuple[Any, ...]],
    *,
    limits: Mapping[str, ConcurrencyLimit],
    now: datetime,
) -> StartJob | PreemptJobs | None:
    """Looks at the whole queue only where that can matter: estimates cost time."""
    if not limits:
        free = whole.minus(cluster_state.sum_reserved(session))
        if free.holds(_required_resources(whole, first)):
            return StartJob(first.id)
        # Each change of a state wakes dispatchers; a full cluster is the usual case.
        if free.cpus < 1 and not _is_any_preemptible(session):
            return None
    scene: SchedulerSnapshot = snapshot.read_snapshot(session, whole, limits=limits, now=now)
    return policy.decide(scene)


def _is_any_preemptible(session: Session) -> bool:
    """Whether any attempt could be asked to make way."""
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


def _create_attempt(
    session: Session, job: JobRow, needed: ResourceBundle, *, lease: _Lease, now: datetime
) -> AttemptRow:
    """The job's next attempt, which occupies so much."""
    job.attempts += 1
    start = _find_start_point(session, job)
    attempt = AttemptRow(
        id=f"{job.id}-a{job.attempts}",
        job_id=job.id,
        number=job.attempts,
        state=AttemptState.STARTING,
        owner=lease.owner,
        fencing_token=1,
        lease_expires_at=lease.expires_at,
        num_workers=job.num_workers,
        cpus_per_worker=needed.cpus // job.num_workers,
        gpus_per_worker=needed.gpus / job.num_workers,
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
    """Where an attempt begins; `iteration` None: at the beginning, maybe with other weights."""

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
