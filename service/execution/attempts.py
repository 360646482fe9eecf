"""Attempts as their training processes see them: the brief, reports, the finish, what follows.

Every write is made by the current, living attempt of its job, or it changes nothing.
"""

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import ids
from service.access import tokens
from service.errors import NotFound, SequenceGap, StaleAttempt, Unauthorized
from service.jobs import artifact_keys, checkpoints, lifecycle, logs, metrics, records, retention
from service.specs.protocol import (
    AttemptConfig,
    CheckpointManifest,
    FinishAttemptRequest,
    PartDigest,
    Report,
    ReportResponse,
    ResumeCheckpoint,
)
from service.states import AttemptState, CheckpointPart, JobState, StopReason
from service.storage import database
from service.storage.database import ChangeKind
from service.storage.tables import AttemptRow, CheckpointRow, JobRow


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


def list_attempts(session: Session, job_id: str) -> list[AttemptRow]:
    """Oldest first."""
    statement = select(AttemptRow).where(AttemptRow.job_id == job_id).order_by(AttemptRow.number)
    return list(session.scalars(statement))


def build_config(session: Session, attempt_id: str) -> AttemptConfig:
    job, attempt = _lock_active(session, attempt_id)
    return AttemptConfig(
        attempt_id=attempt.id,
        job_id=job.id,
        number=attempt.number,
        spec=records.spec_of(job),
        num_workers=attempt.num_workers,
        cpus_per_worker=attempt.cpus_per_worker,
        gpus_per_worker=attempt.gpus_per_worker,
        last_sequence=attempt.last_sequence,
        resume=_resume_checkpoint(session, job, attempt),
    )


def find_resume_checkpoint(session: Session, attempt_id: str) -> CheckpointRow:
    """NotFound where the attempt begins at the beginning."""
    _, attempt = _lock_active(session, attempt_id)
    checkpoint = _resume_row(session, attempt)
    if checkpoint is None:
        raise NotFound(f"attempt {attempt_id} does not resume from a checkpoint")
    return checkpoint


def require_active(session: Session, attempt_id: str) -> None:
    """StaleAttempt unless it may still write."""
    _lock_active(session, attempt_id)


@dataclass(frozen=True)
class AppliedReport:
    """`obsolete_keys`: artifacts that nothing refers to once the transaction is committed."""

    control: ReportResponse
    obsolete_keys: list[str]


def apply_report(
    session: Session, attempt_id: str, report: Report, *, now: datetime
) -> AppliedReport:
    """Stores a report once, in its turn, and tells whether to stop.

    The caller has seen that the bytes of the report's checkpoints are there. StaleAttempt where
    the attempt is over, SequenceGap where an earlier report is missing.
    """
    job, attempt = _lock_active(session, attempt_id)
    attempt.last_report_at = now
    if report.sequence <= attempt.last_sequence:
        return AppliedReport(control=_response(job, attempt, now=now), obsolete_keys=[])
    if report.sequence > attempt.last_sequence + 1:
        raise SequenceGap(
            f"report {report.sequence} came, {attempt.last_sequence + 1} is the next one"
        )
    attempt.last_sequence = report.sequence
    if attempt.state is AttemptState.STARTING:
        attempt.state = AttemptState.RUNNING
        attempt.started_at = now
        lifecycle.transition(session, job, JobState.RUNNING, now=now)
    if report.environment is not None:
        job.environment = report.environment.model_dump(mode="json")
    if report.launch is not None:
        attempt.data_ready_at = report.launch.data_ready_at
        attempt.first_step_at = report.launch.first_step_at
    if report.progress is not None:
        job.progress = report.progress.model_dump(mode="json")
        database.notify(session, ChangeKind.PROGRESS)
    metrics.append_points(session, job, attempt, report.metrics)
    if report.metrics:
        told = max(point.iteration for point in report.metrics)
        attempt.iteration = max(attempt.iteration or 0, told)
    logs.append_lines(session, job, attempt, report.logs)
    obsolete: list[str] = []
    for note in report.checkpoints:
        checkpoints.record_checkpoint(session, job, attempt, note, now=now)
    if report.checkpoints:
        obsolete = retention.delete_superseded(session, job)
    return AppliedReport(control=_response(job, attempt, now=now), obsolete_keys=obsolete)


def is_report_stored(session: Session, attempt_id: str, sequence: int) -> bool:
    """Whether the report came before: its artifacts may be superseded and gone by now.

    StaleAttempt where the attempt is over.
    """
    _, attempt = _lock_active(session, attempt_id)
    return sequence <= attempt.last_sequence


def list_artifact_keys(attempt_id: str, note: CheckpointManifest) -> dict[str, PartDigest]:
    """Where the parts of a note must lie before it may be stored."""
    return {
        artifact_keys.checkpoint_key(attempt_id, note.iteration, digest.part, digest.sha256): digest
        for digest in note.parts
    }


def finish_attempt(
    session: Session, attempt_id: str, last_word: FinishAttemptRequest, *, now: datetime
) -> JobState:
    """The attempt's own account of its end; repeated, it changes nothing."""
    attempt = session.get(AttemptRow, attempt_id)
    assert attempt is not None, "authenticated"
    job = lifecycle.lock_job(session, attempt.job_id)
    session.refresh(attempt)
    if attempt.state is AttemptState.ENDED:
        if attempt.reason is last_word.reason:
            return job.state
        raise StaleAttempt(f"attempt {attempt_id} has ended: {attempt.reason}")
    attempt.last_report_at = now
    lifecycle.end_attempt(
        session,
        job,
        attempt,
        last_word.reason,
        message=last_word.message,
        result=last_word.result,
        now=now,
    )
    return job.state


def _lock_active(session: Session, attempt_id: str) -> tuple[JobRow, AttemptRow]:
    """The attempt and its locked job. StaleAttempt where it has ended.

    A job has one living attempt at most: the next is claimed only after the last has ended.
    """
    job_id = session.scalar(select(AttemptRow.job_id).where(AttemptRow.id == attempt_id))
    if job_id is None:
        raise NotFound(f"no attempt {attempt_id!r}")
    job = lifecycle.lock_job(session, job_id)
    attempt = session.get(AttemptRow, attempt_id, populate_existing=True)
    assert attempt is not None
    if attempt.state is AttemptState.ENDED:
        raise StaleAttempt(f"attempt {attempt_id} has ended: {attempt.reason}")
    return job, attempt


def _response(job: JobRow, attempt: AttemptRow, *, now: datetime) -> ReportResponse:
    stop = job.stop_requested
    if stop is None and exceeds_time_limit(job, attempt, now=now):
        stop = StopReason.TIME_LIMIT
    return ReportResponse(last_sequence=attempt.last_sequence, stop=stop)


def exceeds_time_limit(
    job: JobRow, attempt: AttemptRow, *, now: datetime, grace_seconds: float = 0.0
) -> bool:
    """Whether the attempt has trained for longer than the job's time limit and the grace."""
    if attempt.started_at is None:
        return False
    limit = timedelta(minutes=records.spec_of(job).time_limit_minutes, seconds=grace_seconds)
    return now > attempt.started_at + limit


def _resume_row(session: Session, attempt: AttemptRow) -> CheckpointRow | None:
    if attempt.resume_checkpoint_id is None:
        return None
    return session.get(CheckpointRow, attempt.resume_checkpoint_id)


def _resume_checkpoint(
    session: Session, job: JobRow, attempt: AttemptRow
) -> ResumeCheckpoint | None:
    checkpoint = _resume_row(session, attempt)
    if checkpoint is None:
        return None
    start = records.spec_of(job).start_from
    is_own = checkpoint.job_id == job.id
    return ResumeCheckpoint(
        checkpoint_id=checkpoint.id,
        iteration=checkpoint.iteration,
        mode=None if is_own or start is None else start.mode,
        parts=[
            PartDigest(
                part=CheckpointPart(name), sha256=entry["sha256"], size_bytes=entry["size_bytes"]
            )
            for name, entry in checkpoint.parts.items()
        ],
    )
