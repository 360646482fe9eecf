"""Attempts as their training processes see them: the brief, reports, the finish, what follows.

Every write is made by the current, living attempt of its job, or it changes nothing.
"""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from service import checkpoints, database, events, ids, jobs, metrics, moves, retention, tokens
from service.database import Change
from service.errors import NotFound, SequenceGap, StaleAttempt, Unauthorized
from service.events import EventKind
from service.reports import (
    AttemptBrief,
    CheckpointNote,
    Control,
    Finish,
    LogLine,
    Part,
    PartDigest,
    Report,
    Result,
    ResumePoint,
)
from service.states import AttemptState, Fault, JobState, Reason, StopReason
from service.tables import AttemptRow, CheckpointRow, JobRow, LogRow

# A cluster that breaks every attempt must not spin for ever.
MAX_OTHER_RESTARTS = 20
_LONGEST_BACKOFF_SECONDS = 60.0
# Attempts in a row that broke at one iteration: the next would as well.
POISON_DEATHS = 3


def authenticate(session: Session, attempt_id: str, secret: str) -> AttemptRow:
    """Unauthorized unless the token is this attempt's own."""
    job_id, _, number = attempt_id.partition("-a")
    is_name = ids.is_id(job_id) and number.isdecimal()
    attempt = session.get(AttemptRow, attempt_id) if is_name else None
    # One answer for both, and in the same time: who guesses learns nothing.
    known = attempt.token_sha256 if attempt is not None else ""
    if not hmac.compare_digest(known, tokens.digest(secret)) or attempt is None:
        raise Unauthorized("the token is not this attempt's")
    return attempt


def of_job(session: Session, job_id: str) -> list[AttemptRow]:
    """Oldest first."""
    statement = select(AttemptRow).where(AttemptRow.job_id == job_id).order_by(AttemptRow.number)
    return list(session.scalars(statement))


def brief(session: Session, attempt_id: str) -> AttemptBrief:
    job, attempt = _living(session, attempt_id)
    return AttemptBrief(
        attempt_id=attempt.id,
        job_id=job.id,
        number=attempt.number,
        spec=jobs.spec_of(job),
        num_workers=attempt.num_workers,
        cpus_per_worker=attempt.cpus_per_worker,
        gpus_per_worker=attempt.gpus_per_worker,
        last_sequence=attempt.last_sequence,
        resume=_resume_point(session, job, attempt),
    )


def resume_checkpoint(session: Session, attempt_id: str) -> CheckpointRow:
    """NotFound where the attempt begins at the beginning."""
    _, attempt = _living(session, attempt_id)
    checkpoint = _resume_row(session, attempt)
    if checkpoint is None:
        raise NotFound(f"attempt {attempt_id} does not resume from a checkpoint")
    return checkpoint


def check_living(session: Session, attempt_id: str) -> None:
    """StaleAttempt unless it may still write."""
    _living(session, attempt_id)


@dataclass(frozen=True)
class Applied:
    """`obsolete_keys`: artifacts that nothing refers to once the transaction is committed."""

    control: Control
    obsolete_keys: list[str]


def apply_report(session: Session, attempt_id: str, report: Report, *, now: datetime) -> Applied:
    """Stores a report once, in its turn, and tells whether to stop.

    The caller has seen that the bytes of the report's checkpoints are there. StaleAttempt where
    the attempt is over, SequenceGap where an earlier report is missing.
    """
    job, attempt = _living(session, attempt_id)
    attempt.last_report_at = now
    if report.sequence <= attempt.last_sequence:
        return Applied(control=_control(job, attempt, now=now), obsolete_keys=[])
    if report.sequence > attempt.last_sequence + 1:
        raise SequenceGap(
            f"report {report.sequence} came, {attempt.last_sequence + 1} is the next one"
        )
    attempt.last_sequence = report.sequence
    if attempt.state is AttemptState.STARTING:
        attempt.state = AttemptState.RUNNING
        attempt.started_at = now
        moves.move(session, job, JobState.RUNNING, now=now)
    if report.facts is not None:
        job.facts = report.facts.model_dump(mode="json")
    if report.launch is not None:
        attempt.data_ready_at = report.launch.data_ready_at
        attempt.first_step_at = report.launch.first_step_at
    if report.progress is not None:
        job.progress = report.progress.model_dump(mode="json")
        database.wake(session, Change.PROGRESS)
    metrics.append(session, job, attempt, report.metrics)
    if report.metrics:
        told = max(point.iteration for point in report.metrics)
        attempt.iteration = max(attempt.iteration or 0, told)
    _append_lines(session, job, attempt, report.logs)
    obsolete: list[str] = []
    for note in report.checkpoints:
        checkpoints.record(session, job, attempt, note, now=now)
    if report.checkpoints:
        obsolete = retention.drop_superseded(session, job)
    return Applied(control=_control(job, attempt, now=now), obsolete_keys=obsolete)


def is_stored(session: Session, attempt_id: str, sequence: int) -> bool:
    """Whether the report came before: its artifacts may be superseded and gone by now.

    StaleAttempt where the attempt is over.
    """
    _, attempt = _living(session, attempt_id)
    return sequence <= attempt.last_sequence


def keys_of(attempt_id: str, note: CheckpointNote) -> dict[str, PartDigest]:
    """Where the parts of a note must lie before it may be stored."""
    return {
        checkpoints.key(attempt_id, note.iteration, digest.part, digest.sha256): digest
        for digest in note.parts
    }


def part_key(checkpoint: CheckpointRow, part: Part) -> str:
    """NotFound where the checkpoint was stored without that part."""
    entry = checkpoint.parts.get(part.value)
    if entry is None:
        there = ", ".join(sorted(checkpoint.parts))
        raise NotFound(f"checkpoint {checkpoint.id} has no {part}; it has {there}")
    return str(entry["key"])


def finish(session: Session, attempt_id: str, last_word: Finish, *, now: datetime) -> JobState:
    """The attempt's own account of its end; repeated, it changes nothing."""
    attempt = session.get(AttemptRow, attempt_id)
    assert attempt is not None, "authenticated"
    job = moves.lock(session, attempt.job_id)
    session.refresh(attempt)
    if attempt.state is AttemptState.ENDED:
        if attempt.reason is last_word.reason:
            return job.state
        raise StaleAttempt(f"attempt {attempt_id} has ended: {attempt.reason}")
    attempt.last_report_at = now
    end(
        session,
        job,
        attempt,
        last_word.reason,
        message=last_word.message,
        result=last_word.result,
        now=now,
    )
    return job.state


def end(
    session: Session,
    job: JobRow,
    attempt: AttemptRow,
    reason: Reason,
    *,
    now: datetime,
    message: str = "",
    result: Result | None = None,
) -> None:
    """Ends a living attempt of a locked job and decides what becomes of the job."""
    assert attempt.state is not AttemptState.ENDED
    attempt.state = AttemptState.ENDED
    attempt.reason = reason
    attempt.message = message or None
    attempt.ended_at = now
    data = {
        "number": attempt.number,
        "ended": reason,
        "fault": reason.fault,
        "message": message[:500],
    }
    events.append(session, job, EventKind.ATTEMPT, data, now=now)
    if result is not None:
        job.result = result.model_dump(mode="json")
    _move_on(session, job, attempt, reason, message=message or None, now=now)


def living(session: Session, job: JobRow) -> AttemptRow:
    """The attempt of a locked job that is starting or running."""
    found = session.scalar(
        select(AttemptRow)
        .where(AttemptRow.job_id == job.id, AttemptRow.state != AttemptState.ENDED)
        .execution_options(populate_existing=True)
    )
    assert found is not None
    return found


def _move_on(
    session: Session,
    job: JobRow,
    attempt: AttemptRow,
    reason: Reason,
    *,
    message: str | None,
    now: datetime,
) -> None:
    """What becomes of the job after its attempt has ended."""
    if reason is Reason.EARLY_STOPPED:
        # The search has said why when it asked.
        message = job.message or message
    if reason.fault is Fault.USER:
        job.restarts += 1
    elif reason.fault is not None:
        job.other_restarts += 1
    state = _next_state(job, reason)
    if state is JobState.QUEUED and reason is Reason.PREEMPTED:
        job.preemptions += 1
    elif state is JobState.QUEUED and (iteration := _poisoned_at(session, job)) is not None:
        message = f"{POISON_DEATHS} attempts in a row broke at iteration {iteration}: {message}"
        state = JobState.HELD
    elif state is JobState.QUEUED:
        job.not_before = now + _backoff(attempt, job.restarts + job.other_restarts)
    moves.move(session, job, state, reason=reason, message=message, now=now)


def _next_state(job: JobRow, reason: Reason) -> JobState:
    if reason is Reason.COMPLETED:
        return JobState.SUCCEEDED
    is_cancelled = job.stop_requested in {StopReason.CANCEL, StopReason.EARLY_STOP}
    if is_cancelled or reason in {Reason.CANCELLED, Reason.KILLED, Reason.EARLY_STOPPED}:
        return JobState.CANCELLED
    has_restarts = (
        job.restarts <= jobs.spec_of(job).max_restarts and job.other_restarts <= MAX_OTHER_RESTARTS
    )
    if reason.fault is not None and not (reason.is_retried and has_restarts):
        return JobState.FAILED
    is_paused = reason is Reason.PAUSED or job.stop_requested is StopReason.PAUSE
    return JobState.PAUSED if is_paused else JobState.QUEUED


def _poisoned_at(session: Session, job: JobRow) -> int | None:
    """The iteration at which the last attempts all broke; None where they differ, or are few.

    Attempts that never began to train, or that the cluster lost, say nothing about the job.
    """
    session.flush()
    last = session.scalars(
        select(AttemptRow)
        .where(AttemptRow.job_id == job.id)
        .order_by(AttemptRow.number.desc())
        .limit(POISON_DEATHS)
    ).all()
    broke_at = {
        one.iteration or one.first_iteration
        if one.started_at is not None and one.reason is not None and one.reason.is_from_within
        else None
        for one in last
    }
    return broke_at.pop() if len(last) == POISON_DEATHS and len(broke_at) == 1 else None


def _backoff(attempt: AttemptRow, restarts: int) -> timedelta:
    """Doubles with each restart, less a share of up to a half that differs between attempts.

    Many jobs that a fault has ended at once must not all come back at once.
    """
    seconds = min(_LONGEST_BACKOFF_SECONDS, 2.0 ** (restarts - 1))
    share = int.from_bytes(hashlib.sha256(attempt.id.encode()).digest()[:4]) / 2**32
    return timedelta(seconds=seconds * (1.0 - share / 2))


def _living(session: Session, attempt_id: str) -> tuple[JobRow, AttemptRow]:
    """The attempt and its locked job. StaleAttempt where it has ended.

    A job has one living attempt at most: the next is claimed only after the last has ended.
    """
    job_id = session.scalar(select(AttemptRow.job_id).where(AttemptRow.id == attempt_id))
    if job_id is None:
        raise NotFound(f"no attempt {attempt_id!r}")
    job = moves.lock(session, job_id)
    attempt = session.get(AttemptRow, attempt_id, populate_existing=True)
    assert attempt is not None
    if attempt.state is AttemptState.ENDED:
        raise StaleAttempt(f"attempt {attempt_id} has ended: {attempt.reason}")
    return job, attempt


def _control(job: JobRow, attempt: AttemptRow, *, now: datetime) -> Control:
    stop = job.stop_requested
    if stop is None and is_over_time(job, attempt, now=now):
        stop = StopReason.TIME_LIMIT
    return Control(last_sequence=attempt.last_sequence, stop=stop)


def is_over_time(
    job: JobRow, attempt: AttemptRow, *, now: datetime, grace_seconds: float = 0.0
) -> bool:
    """Whether the attempt has trained for longer than the job's time limit and the grace."""
    if attempt.started_at is None:
        return False
    limit = timedelta(minutes=jobs.spec_of(job).time_limit_minutes, seconds=grace_seconds)
    return now > attempt.started_at + limit


def _append_lines(session: Session, job: JobRow, attempt: AttemptRow, lines: list[LogLine]) -> None:
    if not lines:
        return
    rows = [
        {
            "job_id": job.id,
            "number": job.log_lines + offset,
            "attempt": attempt.number,
            "at": line.at,
            "level": line.level,
            "message": line.message,
        }
        for offset, line in enumerate(lines, start=1)
    ]
    job.log_lines += len(lines)
    session.execute(insert(LogRow), rows)


def logs_after(session: Session, job_id: str, number: int, *, limit: int) -> list[LogRow]:
    """Log lines that follow `number`, oldest first."""
    statement = (
        select(LogRow)
        .where(LogRow.job_id == job_id, LogRow.number > number)
        .order_by(LogRow.number)
        .limit(limit)
    )
    return list(session.scalars(statement))


def _resume_row(session: Session, attempt: AttemptRow) -> CheckpointRow | None:
    if attempt.resume_checkpoint_id is None:
        return None
    return session.get(CheckpointRow, attempt.resume_checkpoint_id)


def _resume_point(session: Session, job: JobRow, attempt: AttemptRow) -> ResumePoint | None:
    checkpoint = _resume_row(session, attempt)
    if checkpoint is None:
        return None
    start = jobs.spec_of(job).start_from
    is_own = checkpoint.job_id == job.id
    return ResumePoint(
        checkpoint_id=checkpoint.id,
        iteration=checkpoint.iteration,
        how=None if is_own or start is None else start.how,
        parts=[
            PartDigest(part=Part(name), sha256=entry["sha256"], size_bytes=entry["size_bytes"])
            for name, entry in checkpoint.parts.items()
        ],
    )
