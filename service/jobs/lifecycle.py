"""The state of a job: this module is its only writer.

A change of state, its event and the deliveries of webhooks and alerts are one transaction, with
what follows for the jobs that depend on it.
"""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import ids
from service.backoff import backoff
from service.errors import IllegalTransition, NotFound
from service.jobs import queue_order, records, warm_start
from service.notifications import alerts, webhooks
from service.specs.analysis_spec import TRAINING
from service.specs.protocol import TrainingResult
from service.states import (
    FINAL_STATES,
    NEXT_STATES,
    AttemptState,
    Blame,
    DependencyCondition,
    JobState,
    Reason,
    StopReason,
)
from service.storage import changes, events
from service.storage.events import EventKind
from service.storage.tables import AttemptRow, DependencyRow, JobRow
from service.storage.visibility import ALL_ROWS, VISIBLE_ROWS

# Ends the retries of a job on a cluster that fails all its attempts.
MAX_INFRA_RESTARTS = 20
# A job is held after this number of consecutive failures at the same iteration.
POISON_ATTEMPTS = 3
# The job is queued again without a backoff.
_CONTINUED = frozenset({Reason.PREEMPTED, Reason.RESIZED})


def lock_job(session: Session, job_id: str) -> JobRow:
    """The job, locked until the transaction ends. On SQLite a transaction locks the database."""
    if not ids.is_id(job_id):
        raise NotFound(f"no job {job_id!r}")
    job = session.get(
        JobRow,
        job_id,
        with_for_update=True,
        populate_existing=True,
        execution_options=VISIBLE_ROWS,
    )
    if job is None:
        raise NotFound(f"no job {job_id!r}")
    return job


def transition(
    session: Session,
    job: JobRow,
    state: JobState,
    *,
    now: datetime,
    reason: Reason | None = None,
    message: str | None = None,
) -> None:
    """Changes the state of a locked job, and of its dependents: queues or cancels them.

    IllegalTransition where the job's state does not allow it.
    """
    _set_state(session, job, state, now=now, reason=reason, message=message)
    ended = [job] if state.is_final else []
    # Not recursive: a chain of dependents may be longer than Python's stack.
    while ended:
        ended += _update_dependents(session, ended.pop(), now=now)


def end_attempt(
    session: Session,
    job: JobRow,
    attempt: AttemptRow,
    reason: Reason,
    *,
    now: datetime,
    message: str = "",
    result: TrainingResult | None = None,
) -> None:
    """Ends the active attempt of a locked job, then finishes, requeues or holds the job."""
    assert attempt.state is not AttemptState.ENDED
    attempt.state = AttemptState.ENDED
    attempt.reason = reason
    attempt.message = message or None
    attempt.ended_at = now
    data = {
        "number": attempt.number,
        "ended": reason,
        "blame": reason.blame,
        "message": message[:500],
    }
    events.append_event(session, job, EventKind.ATTEMPT, data, now=now)
    if result is not None:
        job.result = result.model_dump(mode="json")
    _finish_or_requeue(session, job, attempt, reason, message=message or None, now=now)


def notify_analysed_job(session: Session, job: JobRow) -> None:
    """Reports a change of an analysis as one of the job that it analyses, which lists it."""
    if job.kind != TRAINING and job.source_job_id is not None:
        changes.notify(session, job.source_job_id)


def find_active_attempt(session: Session, job: JobRow) -> AttemptRow:
    """The attempt of a locked job that is starting or running."""
    found = session.scalar(
        select(AttemptRow)
        .where(AttemptRow.job_id == job.id, AttemptRow.state != AttemptState.ENDED)
        .execution_options(populate_existing=True)
    )
    assert found is not None
    return found


def choose_requeued_state(session: Session, job: JobRow) -> JobState:
    return JobState.BLOCKED if list_unmet_dependencies(session, job.id) else JobState.QUEUED


def list_unmet_dependencies(session: Session, job_id: str) -> list[JobRow]:
    """The jobs that must end before it starts, oldest first."""
    return list(
        session.scalars(
            select(JobRow)
            .join(DependencyRow, DependencyRow.needed_id == JobRow.id)
            .where(DependencyRow.job_id == job_id, JobRow.state.not_in(FINAL_STATES))
            .order_by(JobRow.id)
            .execution_options(**ALL_ROWS)
        )
    )


def _set_state(
    session: Session,
    job: JobRow,
    state: JobState,
    *,
    now: datetime,
    reason: Reason | None,
    message: str | None,
) -> None:
    if state not in NEXT_STATES[job.state]:
        raise IllegalTransition(f"job {job.id} is {job.state} and cannot become {state}")
    if state.is_waiting and not job.state.is_waiting:
        _enter_queue(session, job)
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
    events.append_event(session, job, EventKind.STATE, data, now=now)
    notify_analysed_job(session, job)
    webhooks.enqueue_deliveries(session, job, now=now)
    alerts.enqueue_job_change(session, job, now=now)


def _enter_queue(session: Session, job: JobRow) -> None:
    """At its place; its owner's points may have changed while it ran."""
    job.fair_share_points = queue_order.lock_points(session, job.user)
    job.queue_sort_key = queue_order.make_sort_key(
        created_at=job.created_at, priority=job.priority, points=job.fair_share_points
    )


def _update_dependents(session: Session, ended: JobRow, *, now: datetime) -> list[JobRow]:
    """Queues or cancels the jobs that depend on `ended`. Returns those that it cancelled."""
    session.flush()
    dependents = session.execute(
        select(JobRow, DependencyRow.condition)
        .join(DependencyRow, DependencyRow.job_id == JobRow.id)
        .where(DependencyRow.needed_id == ended.id)
        .order_by(JobRow.id)
        .with_for_update(of=JobRow)
        .execution_options(populate_existing=True)
    ).all()
    cancelled = []
    for job, condition in dependents:
        if not job.state.is_waiting:
            continue
        if condition is DependencyCondition.OK and ended.state is not JobState.SUCCEEDED:
            reason = Reason.DEPENDENCY_FAILED
            message = f"job {ended.id}, which it depends on, {ended.state.past_phrase}"
            _set_state(session, job, JobState.CANCELLED, now=now, reason=reason, message=message)
            cancelled.append(job)
        elif not warm_start.pin_source(session, job, ended):
            reason = Reason.DEPENDENCY_FAILED
            message = f"job {ended.id}, which it starts from, ended without a checkpoint"
            _set_state(session, job, JobState.CANCELLED, now=now, reason=reason, message=message)
            cancelled.append(job)
        elif job.state is JobState.BLOCKED and not list_unmet_dependencies(session, job.id):
            _set_state(session, job, JobState.QUEUED, now=now, reason=None, message=None)
    return cancelled


def _finish_or_requeue(
    session: Session,
    job: JobRow,
    attempt: AttemptRow,
    reason: Reason,
    *,
    message: str | None,
    now: datetime,
) -> None:
    if reason.blame is Blame.USER:
        job.restarts += 1
    elif reason.blame is not None:
        job.infra_restarts += 1
    state = _next_state(job, reason)
    if reason.blame is not None and state in {JobState.CANCELLED, JobState.PAUSED}:
        # Its processes failed before they stopped; the attempt says how.
        assert job.stop_requested is not None
        reason, message = job.stop_requested.reason, None
    if reason is Reason.EARLY_STOPPED:
        # The search has set the job's message when it requested the stop.
        message = job.message or message
    if state is JobState.QUEUED and reason in _CONTINUED:
        job.preemptions += reason is Reason.PREEMPTED
    elif state is JobState.QUEUED:
        iteration = _find_poison_iteration(session, job)
        if iteration is None:
            job.not_before = now + backoff(job.restarts + job.infra_restarts, key=attempt.id)
        else:
            state = JobState.HELD
            message = (
                f"{POISON_ATTEMPTS} attempts in a row failed at iteration {iteration}: {message}"
            )
    transition(session, job, state, reason=reason, message=message, now=now)


def _next_state(job: JobRow, reason: Reason) -> JobState:
    if reason.is_success:
        return JobState.SUCCEEDED
    is_cancelled = job.stop_requested in {StopReason.CANCEL, StopReason.EARLY_STOP}
    if is_cancelled or reason in {Reason.CANCELLED, Reason.KILLED, Reason.EARLY_STOPPED}:
        return JobState.CANCELLED
    has_restarts = (
        job.restarts <= records.max_restarts_of(job) and job.infra_restarts <= MAX_INFRA_RESTARTS
    )
    if reason.blame is not None and not (reason.is_retryable and has_restarts):
        return JobState.FAILED
    is_paused = reason is Reason.PAUSED or job.stop_requested is StopReason.PAUSE
    return JobState.PAUSED if is_paused else JobState.QUEUED


def _find_poison_iteration(session: Session, job: JobRow) -> int | None:
    """The iteration at which the last attempts all failed; None where there is none.

    Attempts that trained no step, or that the cluster lost, are not failures of the job.
    """
    session.flush()
    last = session.scalars(
        select(AttemptRow)
        .where(AttemptRow.job_id == job.id)
        .order_by(AttemptRow.number.desc())
        .limit(POISON_ATTEMPTS)
    ).all()
    failed_at = {
        attempt.iteration or attempt.first_iteration
        if attempt.started_at is not None
        and attempt.reason is not None
        and attempt.reason.is_process_failure
        else None
        for attempt in last
    }
    return failed_at.pop() if len(last) == POISON_ATTEMPTS and len(failed_at) == 1 else None
