"""Admission: gives the next job to a dispatcher under a lease, or makes room for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Row, or_, select
from sqlalchemy.orm import Session

from service import (
    checkpoints,
    events,
    jobs,
    moves,
    origins,
    queue,
    runners,
    scenes,
    schedule,
    steering,
)
from service.errors import NotFound
from service.events import EventKind
from service.pools import Pool
from service.queue import Claim
from service.schedule import Preempt, Scene, Start
from service.settings import Limit
from service.spec import How
from service.states import AttemptState, JobState, Reason
from service.tables import AttemptRow, JobRow


def claim(
    session: Session,
    *,
    owner: str,
    now: datetime,
    lease_seconds: float,
    limits: Mapping[str, Limit],
    runner_lives: int = 1,
) -> Claim | None:
    """The next job with all its workers, as `service.schedule` decides; None if all must wait.

    Dispatchers decide one after the other, so that they never give away the same CPU. Where a
    more urgent job needs the room of preemptible ones, those are asked to stop. A runner
    that is planned for the job will run `runner_lives` attempts.
    """
    whole = queue.lock_cluster(session)
    if whole is None:
        return None
    lease = _Lease(owner=owner, expires_at=now + timedelta(seconds=lease_seconds))
    while True:
        first = session.execute(scenes.eligible(now).limit(1)).first()
        if first is None:
            return None
        decision = _decide(session, whole, first, limits=limits, now=now)
        if isinstance(decision, Preempt):
            _preempt(session, decision, now=now)
        if not isinstance(decision, Start):
            return None
        job = _locked(session, decision.job_id)
        if job is None:
            return None
        message = _cannot_start(session, job)
        if message is not None:
            reason = Reason.INTERNAL
            moves.move(session, job, JobState.FAILED, reason=reason, message=message, now=now)
            session.flush()
            continue
        attempt = _begin(session, job, _needed(whole, job), lease=lease, now=now)
        if decision.yields_in is not None:
            attempt.yields_at = now + timedelta(seconds=decision.yields_in)
        runner = runners.assign(session, attempt, lives=runner_lives, now=now)
        return Claim(attempt_id=attempt.id, fence=attempt.fence, runner_id=runner.id)


def _needed(whole: Pool, job: JobRow | Row[tuple[Any, ...]]) -> Pool:
    return scenes.needed(
        whole,
        num_workers=job.num_workers,
        cpus_per_worker=job.cpus_per_worker,
        gpus_per_worker=job.gpus_per_worker,
    )


def _locked(session: Session, job_id: str) -> JobRow | None:
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


def _cannot_start(session: Session, job: JobRow) -> str | None:
    """Why no attempt of the job could begin; None: one can."""
    try:
        jobs.spec_of(job)
        origins.of_first_attempt(session, job)
    except ValidationError as error:
        return f"this version of the service cannot read the job's spec: {error}"
    except NotFound as error:
        return None if job.saved_iteration > 0 else str(error)
    return None


def _decide(
    session: Session,
    whole: Pool,
    first: Row[tuple[Any, ...]],
    *,
    limits: Mapping[str, Limit],
    now: datetime,
) -> Start | Preempt | None:
    """Looks at the whole queue only where that can matter: estimates cost time."""
    if not limits:
        free = whole.minus(queue.reserved(session))
        if free.holds(_needed(whole, first)):
            return Start(first.id)
        # Each change of a state wakes dispatchers; a full cluster is the usual case.
        if free.cpus < 1 and not _may_any_yield(session):
            return None
    scene: Scene = scenes.read(session, whole, limits=limits, now=now)
    return schedule.decide(scene)


def _may_any_yield(session: Session) -> bool:
    """Whether any attempt could be asked to make way."""
    statement = (
        select(AttemptRow.id)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(
            AttemptRow.released_at.is_(None),
            or_(JobRow.preemptible, AttemptRow.yields_at.is_not(None)),
        )
        .limit(1)
    )
    return session.scalar(statement) is not None


def _preempt(session: Session, decision: Preempt, *, now: datetime) -> None:
    for job_id in sorted(decision.victims):
        job = moves.lock(session, job_id)
        is_running = job.state in {JobState.STARTING, JobState.RUNNING}
        if is_running and job.stop_requested is None:
            steering.preempt(session, job, by=decision.job_id, now=now)


def _begin(
    session: Session, job: JobRow, needed: Pool, *, lease: _Lease, now: datetime
) -> AttemptRow:
    """The job's next attempt, which occupies so much."""
    job.attempts += 1
    start = _start_of(session, job)
    attempt = AttemptRow(
        id=f"{job.id}-a{job.attempts}",
        job_id=job.id,
        number=job.attempts,
        state=AttemptState.STARTING,
        owner=lease.owner,
        fence=1,
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
    events.append(session, job, EventKind.ATTEMPT, data, now=now)
    moves.move(session, job, JobState.STARTING, now=now)
    return attempt


@dataclass(frozen=True)
class _Start:
    """Where an attempt begins; `iteration` None: at the beginning, maybe with other weights."""

    checkpoint_id: str | None = None
    iteration: int | None = None


def _start_of(session: Session, job: JobRow) -> _Start:
    """From the job's own newest checkpoint, or else from another job's."""
    if job.saved_iteration > 0 and (newest := checkpoints.newest(session, job.id)) is not None:
        return _Start(newest.id, newest.iteration)
    source = origins.of_first_attempt(session, job)
    if source is None:
        return _Start()
    start = jobs.spec_of(job).start_from
    is_continued = start is not None and start.how is How.CONTINUE
    return _Start(source.id, source.iteration if is_continued else None)
