"""Jobs: submit, find, page, cancel; `move` is the only writer of a job's state."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service import events, ids
from service.errors import CannotFit, Fault, IdempotencyMismatch, IllegalMove, NotFound
from service.events import EventKind
from service.spec import JobSpec
from service.states import NEXT_STATES, JobState, Reason
from service.tables import ClusterRow, JobRow, TagRow


@dataclass(frozen=True)
class Submitted:
    """`is_replay`: the idempotency key had made this job before."""

    job: JobRow
    is_replay: bool


def submit(
    session: Session,
    spec: JobSpec,
    *,
    now: datetime,
    idempotency_key: str | None = None,
) -> Submitted:
    """Saves the job; with a key that was used before, finds the one it made.

    CannotFit where the cluster can never hold the job, IdempotencyMismatch for a key that
    made a job from another spec.
    """
    spec_sha256 = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()
    if idempotency_key is not None:
        earlier = _made_with(session, idempotency_key, spec_sha256)
        if earlier is not None:
            return Submitted(job=earlier, is_replay=True)
    _refuse_what_never_fits(session, spec)
    job = JobRow(
        id=ids.new_id(now),
        name=spec.name,
        dataset=spec.dataset,
        spec=spec.model_dump(mode="json"),
        state=JobState.QUEUED,
        priority=spec.priority,
        created_at=now,
        attempts=0,
        restarts=0,
        other_restarts=0,
        events=0,
        log_lines=0,
        newest_metrics={},
        idempotency_key=idempotency_key,
        spec_sha256=spec_sha256,
    )
    try:
        with session.begin_nested():
            session.add(job)
    except IntegrityError:
        # The same request came twice at one time, and the other one was first.
        assert idempotency_key is not None
        first = _made_with(session, idempotency_key, spec_sha256)
        assert first is not None
        return Submitted(job=first, is_replay=True)
    session.add_all(TagRow(job_id=job.id, tag=tag) for tag in spec.tags)
    events.append(session, job, EventKind.SUBMITTED, {"network": spec.network}, now=now)
    return Submitted(job=job, is_replay=False)


def _made_with(session: Session, idempotency_key: str, spec_sha256: str) -> JobRow | None:
    earlier = session.scalar(select(JobRow).where(JobRow.idempotency_key == idempotency_key))
    if earlier is not None and earlier.spec_sha256 != spec_sha256:
        raise IdempotencyMismatch(
            f"the idempotency key {idempotency_key!r} made job {earlier.id} from another body"
        )
    return earlier


def spec_of(job: JobRow) -> JobSpec:
    return JobSpec.model_validate(job.spec)


def find(session: Session, job_id: str) -> JobRow:
    job = session.get(JobRow, job_id) if ids.is_id(job_id) else None
    if job is None:
        raise NotFound(f"no job {job_id!r}")
    return job


def lock(session: Session, job_id: str) -> JobRow:
    """The job, this transaction's alone until it ends. On SQLite every transaction is alone."""
    if not ids.is_id(job_id):
        raise NotFound(f"no job {job_id!r}")
    job = session.get(JobRow, job_id, with_for_update=True, populate_existing=True)
    if job is None:
        raise NotFound(f"no job {job_id!r}")
    return job


@dataclass(frozen=True)
class Page:
    """`next_id`: where the next page begins; None after the last."""

    jobs: list[JobRow]
    next_id: str | None


def page(
    session: Session,
    *,
    limit: int,
    before_id: str | None = None,
    states: Sequence[JobState] = (),
    dataset: str | None = None,
    tags: Sequence[str] = (),
    name: str | None = None,
    id_prefix: str | None = None,
) -> Page:
    """Jobs that match all that is given, newest first."""
    statement = select(JobRow).order_by(JobRow.id.desc()).limit(limit + 1)
    if before_id is not None:
        statement = statement.where(JobRow.id < before_id)
    if states:
        statement = statement.where(JobRow.state.in_(states))
    if dataset is not None:
        statement = statement.where(JobRow.dataset == dataset)
    if name is not None:
        statement = statement.where(JobRow.name.contains(name, autoescape=True))
    if id_prefix is not None:
        statement = statement.where(JobRow.id.startswith(id_prefix, autoescape=True))
    for tag in tags:
        has_tag = select(TagRow.job_id).where(TagRow.tag == tag)
        statement = statement.where(JobRow.id.in_(has_tag))
    found = list(session.scalars(statement))
    has_more = len(found) > limit
    return Page(jobs=found[:limit], next_id=found[limit - 1].id if has_more else None)


def cancel(session: Session, job_id: str, *, now: datetime) -> JobRow:
    """A waiting job is cancelled at once; a running one is asked to stop. Repeated, no change.

    IllegalMove where the job has ended otherwise.
    """
    job = lock(session, job_id)
    if job.state is JobState.CANCELLED or job.cancel_requested_at is not None:
        return job
    if job.state.is_final:
        raise IllegalMove(f"job {job.id} has {job.state} already and cannot be cancelled")
    job.cancel_requested_at = now
    events.append(session, job, EventKind.CANCEL_REQUESTED, {}, now=now)
    if job.state is JobState.QUEUED:
        move(session, job, JobState.CANCELLED, reason=Reason.CANCELLED, now=now)
    return job


def move(
    session: Session,
    job: JobRow,
    state: JobState,
    *,
    now: datetime,
    reason: Reason | None = None,
    message: str | None = None,
) -> None:
    """Changes the state of a locked job and writes the event. IllegalMove if it may not."""
    if state not in NEXT_STATES[job.state]:
        raise IllegalMove(f"job {job.id} is {job.state} and cannot become {state}")
    data = {"from": job.state, "to": state, "reason": reason, "message": message}
    job.state = state
    job.reason = reason
    job.message = message
    if state is JobState.RUNNING and job.started_at is None:
        job.started_at = now
    if state.is_final:
        job.finished_at = now
    events.append(session, job, EventKind.STATE, data, now=now)


def _refuse_what_never_fits(session: Session, spec: JobSpec) -> None:
    cluster = session.get(ClusterRow, 1)
    if cluster is None:  # no dispatcher has seen the cluster yet; the job waits for one
        return
    resources = spec.resources
    wanted = {
        "CPUs": (resources.num_workers * resources.cpus_per_worker, cluster.cpus),
        "GPUs": (resources.num_workers * (resources.gpus_per_worker or 0), cluster.gpus),
    }
    for kind, (needed, there) in wanted.items():
        if needed > there:
            raise CannotFit(
                "the cluster can never hold this job",
                faults=(
                    Fault(
                        pointer="/resources",
                        message=f"{resources.num_workers} workers need {needed} {kind}, "
                        f"the whole cluster has {there}",
                    ),
                ),
            )
