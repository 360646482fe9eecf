"""What is asked of a job that is there: hold, release, pause, resume, cancel, kill, change.

Each repeated changes nothing more. IllegalTransition where the job's state does not allow it.
"""

from datetime import datetime

from sqlalchemy.orm import Session

from service.errors import IllegalTransition
from service.jobs import events, lifecycle
from service.jobs.events import EventKind
from service.states import JobState, Reason, StopReason
from service.storage.tables import JobRow

# After which the job is not tried again.
_FINAL_REQUESTS = frozenset({StopReason.CANCEL, StopReason.EARLY_STOP})


def hold(session: Session, job_id: str, *, now: datetime) -> JobRow:
    """Keeps a waiting job from starting until it is released."""
    job = lifecycle.lock_job(session, job_id)
    if job.state in {JobState.STARTING, JobState.RUNNING}:
        raise IllegalTransition(
            f"job {job.id} is {job.state}; it can be paused, cancelled or killed"
        )
    if job.state is not JobState.HELD:
        lifecycle.transition(session, job, JobState.HELD, now=now)
    return job


def release(session: Session, job_id: str, *, now: datetime) -> JobRow:
    """Ends a hold, somebody's or the service's own; the job has kept its place."""
    return _requeue(session, job_id, JobState.HELD, now=now)


def pause(session: Session, job_id: str, *, now: datetime) -> JobRow:
    """A waiting job does not start; a running one saves a checkpoint and frees its workers."""
    job = lifecycle.lock_job(session, job_id)
    if job.state in {JobState.STARTING, JobState.RUNNING}:
        _request_stop(session, job, StopReason.PAUSE, now=now)
    elif job.state is not JobState.PAUSED:
        lifecycle.transition(session, job, JobState.PAUSED, now=now)
    return job


def resume(session: Session, job_id: str, *, now: datetime) -> JobRow:
    """A paused job is back at its place in the queue."""
    return _requeue(session, job_id, JobState.PAUSED, now=now)


def cancel(session: Session, job_id: str, *, now: datetime) -> JobRow:
    """A waiting job is cancelled at once; a running one saves a checkpoint and stops."""
    job = lifecycle.lock_job(session, job_id)
    if job.state.is_waiting:
        lifecycle.transition(session, job, JobState.CANCELLED, reason=Reason.CANCELLED, now=now)
    elif not job.state.is_final:
        _request_stop(session, job, StopReason.CANCEL, now=now)
    elif job.state is not JobState.CANCELLED:
        raise IllegalTransition(f"job {job.id} has {job.state} already and cannot be cancelled")
    return job


def kill(session: Session, job_id: str, *, now: datetime) -> JobRow:
    """Ends the job now; what it has trained since its newest checkpoint is lost."""
    job = lifecycle.lock_job(session, job_id)
    if job.state in {JobState.STARTING, JobState.RUNNING}:
        lifecycle.end_attempt(
            session, job, lifecycle.find_active_attempt(session, job), Reason.KILLED, now=now
        )
    elif job.state.is_waiting:
        lifecycle.transition(session, job, JobState.CANCELLED, reason=Reason.KILLED, now=now)
    elif job.state is not JobState.CANCELLED:
        raise IllegalTransition(f"job {job.id} has {job.state} already and cannot be killed")
    return job


def preempt(session: Session, job: JobRow, *, by: str, now: datetime) -> None:
    """Asks a locked job's attempt to make way for job `by`: it is back in the queue afterwards."""
    assert job.stop_requested is None
    _request_stop(session, job, StopReason.PREEMPT, now=now, by=by)


def stop_early(session: Session, job_id: str, *, why: str, now: datetime) -> bool:
    """A search's own cancel: False where the job has ended, or stops already."""
    job = lifecycle.lock_job(session, job_id)
    if job.state.is_final or job.stop_requested in _FINAL_REQUESTS:
        return False
    if job.state.is_waiting:
        reason = Reason.EARLY_STOPPED
        lifecycle.transition(session, job, JobState.CANCELLED, reason=reason, message=why, now=now)
    else:
        _request_stop(session, job, StopReason.EARLY_STOP, now=now, why=why)
        # Until its attempt has ended: what the job says of its end then.
        job.message = why
    return True


def change_priority(session: Session, job_id: str, priority: int, *, now: datetime) -> JobRow:
    """The job's place moves as if it had been submitted so."""
    job = lifecycle.lock_job(session, job_id)
    if job.state.is_final:
        raise IllegalTransition(f"job {job.id} has {job.state} already and waits for nothing")
    if job.priority != priority:
        data = {"priority": {"from": job.priority, "to": priority}}
        job.priority = priority
        job.queue_sort_key = lifecycle.queue_sort_key(created_at=job.created_at, priority=priority)
        job.spec = job.spec | {"priority": priority}
        events.append_event(session, job, EventKind.CHANGED, data, now=now)
    return job


def _requeue(session: Session, job_id: str, kept: JobState, *, now: datetime) -> JobRow:
    job = lifecycle.lock_job(session, job_id)
    if job.state is kept:
        lifecycle.transition(session, job, lifecycle.state_when_requeued(session, job), now=now)
    elif job.state not in {JobState.QUEUED, JobState.BLOCKED}:
        raise IllegalTransition(f"job {job.id} is {job.state}, not {kept}")
    return job


def _request_stop(
    session: Session,
    job: JobRow,
    stop: StopReason,
    *,
    now: datetime,
    by: str | None = None,
    why: str | None = None,
) -> None:
    """The stronger request stands: a cancelled job is not paused, a paused one not preempted."""
    if job.stop_requested is stop:
        return
    is_weaker = stop is not StopReason.CANCEL and job.stop_requested in _FINAL_REQUESTS
    if job.stop_requested is StopReason.CANCEL or is_weaker:
        raise IllegalTransition(f"job {job.id} is being cancelled")
    job.stop_requested = stop
    job.stop_requested_at = now
    data = {"stop": stop, "by": by, "why": why}
    told = {name: value for name, value in data.items() if value is not None}
    events.append_event(session, job, EventKind.STOP_REQUESTED, told, now=now)
