"""A job's state: `move` is its only writer, writes the event, and tells the jobs that wait."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import events, ids, webhooks
from service.errors import IllegalMove, NotFound
from service.events import EventKind
from service.spec import Condition
from service.states import FINAL_STATES, NEXT_STATES, JobState, Reason
from service.tables import DependencyRow, JobRow

# A waiting job gains one point of priority in this time, so that nothing starves: after 17 hours
# the least urgent job goes before the most urgent one that comes then.
AGING_SECONDS = 600.0


def place(*, created_at: datetime, priority: int) -> float:
    """What orders the queue, in seconds: of two jobs the one with the smaller place goes first.

    All jobs age at one rate, so which of two goes first never changes while they wait, and the
    order can be an index.
    """
    return created_at.timestamp() - priority * AGING_SECONDS


def lock(session: Session, job_id: str) -> JobRow:
    """The job, this transaction's alone until it ends. On SQLite every transaction is alone."""
    if not ids.is_id(job_id):
        raise NotFound(f"no job {job_id!r}")
    job = session.get(JobRow, job_id, with_for_update=True, populate_existing=True)
    if job is None:
        raise NotFound(f"no job {job_id!r}")
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
    """Changes the state of a locked job and of those that wait for it. IllegalMove if it may not.

    An end that was waited for lets jobs into the queue, or cancels them with all behind them.
    """
    _change(session, job, state, now=now, reason=reason, message=message)
    ended = [job] if state.is_final else []
    # A list and no recursion: a chain may be longer than Python's stack.
    while ended:
        ended += _tell_dependents(session, ended.pop(), now=now)


def requeue_state(session: Session, job: JobRow) -> JobState:
    """Where a job belongs that nothing but others may keep from starting: queued or blocked."""
    return JobState.BLOCKED if unmet_dependencies(session, job.id) else JobState.QUEUED


def unmet_dependencies(session: Session, job_id: str) -> list[JobRow]:
    """The jobs that must end before it starts, oldest first."""
    return list(
        session.scalars(
            select(JobRow)
            .join(DependencyRow, DependencyRow.needed_id == JobRow.id)
            .where(DependencyRow.job_id == job_id, JobRow.state.not_in(FINAL_STATES))
            .order_by(JobRow.id)
        )
    )


def _tell_dependents(session: Session, needed: JobRow, *, now: datetime) -> list[JobRow]:
    """The jobs that end because `needed` has."""
    session.flush()
    dependents = session.execute(
        select(JobRow, DependencyRow.condition)
        .join(DependencyRow, DependencyRow.job_id == JobRow.id)
        .where(DependencyRow.needed_id == needed.id)
        .order_by(JobRow.id)
        .with_for_update(of=JobRow)
        .execution_options(populate_existing=True)
    ).all()
    ended = []
    for job, condition in dependents:
        if not job.state.is_waiting:
            continue
        if condition is Condition.OK and needed.state is not JobState.SUCCEEDED:
            reason, message = Reason.DEPENDENCY_FAILED, f"it needs job {needed.id}: {needed.state}"
            _change(session, job, JobState.CANCELLED, now=now, reason=reason, message=message)
            ended.append(job)
        elif job.state is JobState.BLOCKED and not unmet_dependencies(session, job.id):
            _change(session, job, JobState.QUEUED, now=now, reason=None, message=None)
    return ended


def _change(
    session: Session,
    job: JobRow,
    state: JobState,
    *,
    now: datetime,
    reason: Reason | None,
    message: str | None,
) -> None:
    if state not in NEXT_STATES[job.state]:
        raise IllegalMove(f"job {job.id} is {job.state} and cannot become {state}")
    data = {"from": job.state, "to": state, "reason": reason, "message": message}
    job.state = state
    job.reason = reason
    job.message = message
    if state is JobState.RUNNING and job.started_at is None:
        job.started_at = now
    if state.is_waiting or state.is_final:
        job.stop_requested = None
        job.stop_requested_at = None
    if state.is_final:
        job.finished_at = now
    events.append(session, job, EventKind.STATE, data, now=now)
    webhooks.tell(session, job, now=now)
