"""Commands on a job: hold, release, pause, resume, cancel, kill, change its priority.

A repeated command changes nothing. IllegalTransition where the job's state does not allow it.
"""

from datetime import datetime

from sqlalchemy.orm import Session

from service.errors import IllegalTransition
from service.jobs import lifecycle, queue_order
from service.states import CONTINUING_STOPS, JobState, Reason, StopReason
from service.storage import events
from service.storage.events import EventKind
from service.storage.tables import JobRow

_ACTIVE = frozenset({JobState.STARTING, JobState.RUNNING})
# A job that stops for one of these is not retried.
_FINAL_STOPS = frozenset({StopReason.CANCEL, StopReason.EARLY_STOP})


def hold(session: Session, job_id: str, *, now: datetime) -> JobRow:
    """Keeps a waiting job from starting until it is released."""
    job = lifecycle.lock_job(session, job_id)
    if job.state in _ACTIVE:
        raise IllegalTransition(
            f"job {job.id} is {job.state} and cannot be held; pause, cancel or kill it"
        )
    if job.state is not JobState.HELD:
        lifecycle.transition(session, job, JobState.HELD, now=now)
    return job


def release(session: Session, job_id: str, *, now: datetime) -> JobRow:
    """Ends a hold, by a user or by the service; the job keeps its place in the queue."""
    return _requeue(session, job_id, JobState.HELD, now=now)


def pause(session: Session, job_id: str, *, now: datetime) -> JobRow:
    """A waiting job does not start; a running one saves a checkpoint and frees its workers."""
    job = lifecycle.lock_job(session, job_id)
    if job.state in _ACTIVE:
        _request_stop(session, job, StopReason.PAUSE, now=now)
    elif job.state is not JobState.PAUSED:
        lifecycle.transition(session, job, JobState.PAUSED, now=now)
    return job


def resume(session: Session, job_id: str, *, now: datetime) -> JobRow:
    """Returns a paused job to its place in the queue."""
    return _requeue(session, job_id, JobState.PAUSED, now=now)


def cancel(session: Session, job_id: str, *, now: datetime) -> JobRow:
    """A waiting job is cancelled at once; a running one saves a checkpoint and stops."""
    job = lifecycle.lock_job(session, job_id)
    if job.state.is_waiting:
        lifecycle.transition(session, job, JobState.CANCELLED, reason=Reason.CANCELLED, now=now)
    elif not job.state.is_final:
        _request_stop(session, job, StopReason.CANCEL, now=now)
    elif job.state is not JobState.CANCELLED:
        raise IllegalTransition(f"job {job.id} {job.state.past_phrase} and cannot be cancelled")
    return job


def kill(session: Session, job_id: str, *, now: datetime) -> JobRow:
    """Ends the job at once; its training since the newest checkpoint is lost."""
    job = lifecycle.lock_job(session, job_id)
    if job.state in _ACTIVE:
        attempt = lifecycle.find_active_attempt(session, job)
        lifecycle.end_attempt(session, job, attempt, Reason.KILLED, now=now)
    elif job.state.is_waiting:
        lifecycle.transition(session, job, JobState.CANCELLED, reason=Reason.KILLED, now=now)
    elif job.state is not JobState.CANCELLED:
        raise IllegalTransition(f"job {job.id} {job.state.past_phrase} and cannot be killed")
    return job


def change_priority(session: Session, job_id: str, priority: int, *, now: datetime) -> JobRow:
    """Moves the job to the place that it would have had with this priority from the start."""
    job = lifecycle.lock_job(session, job_id)
    if job.state.is_final:
        raise IllegalTransition(
            f"job {job.id} {job.state.past_phrase}; its priority cannot be changed"
        )
    if job.priority != priority:
        data = {"priority": {"from": job.priority, "to": priority}}
        job.priority = priority
        job.queue_sort_key = queue_order.make_sort_key(
            created_at=job.created_at, priority=priority, points=job.fair_share_points
        )
        job.spec = job.spec | {"priority": priority}
        events.append_event(session, job, EventKind.CHANGED, data, now=now)
    return job


def preempt(session: Session, job: JobRow, *, by: str, now: datetime) -> None:
    """Stops the attempt of a locked job in favor of job `by`; the job is queued again."""
    assert job.stop_requested in CONTINUING_STOPS
    _request_stop(session, job, StopReason.PREEMPT, now=now, by=by)


def resize(session: Session, job: JobRow, *, message: str, now: datetime) -> None:
    """Stops the attempt of a locked job, which is queued again and may have more workers."""
    assert job.stop_requested is None
    _request_stop(session, job, StopReason.RESIZE, now=now, message=message)


def stop_early(session: Session, job_id: str, *, message: str, now: datetime) -> bool:
    """Stops a trial for its search. False where the job has ended or is stopping for good."""
    job = lifecycle.lock_job(session, job_id)
    if job.state.is_final or job.stop_requested in _FINAL_STOPS:
        return False
    if job.state.is_waiting:
        reason = Reason.EARLY_STOPPED
        lifecycle.transition(
            session, job, JobState.CANCELLED, reason=reason, message=message, now=now
        )
    else:
        _request_stop(session, job, StopReason.EARLY_STOP, now=now, message=message)
        # It becomes the message of the job's end.
        job.message = message
    return True


def _requeue(session: Session, job_id: str, expected: JobState, *, now: datetime) -> JobRow:
    job = lifecycle.lock_job(session, job_id)
    if job.state is expected:
        lifecycle.transition(session, job, lifecycle.choose_requeued_state(session, job), now=now)
    elif job.state not in {JobState.QUEUED, JobState.BLOCKED}:
        raise IllegalTransition(f"job {job.id} is {job.state}, not {expected}")
    return job


def _request_stop(
    session: Session,
    job: JobRow,
    stop: StopReason,
    *,
    now: datetime,
    by: str | None = None,
    message: str | None = None,
) -> None:
    """A stop for good replaces any other request, and no other replaces it; a cancel is final."""
    if job.stop_requested is stop:
        return
    is_weaker = stop is not StopReason.CANCEL and job.stop_requested in _FINAL_STOPS
    if job.stop_requested is StopReason.CANCEL or is_weaker:
        raise IllegalTransition(f"job {job.id} is being cancelled")
    job.stop_requested = stop
    job.stop_requested_at = now
    data = {"stop": stop, "by": by, "message": message}
    given = {name: value for name, value in data.items() if value is not None}
    events.append_event(session, job, EventKind.STOP_REQUESTED, given, now=now)
