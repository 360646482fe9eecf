"""Attempts as their training processes see them: configuration, reports, checkpoints, the end.

Only the active attempt of a job may write.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.access import quotas, storage_use
from service.errors import NotFound, SequenceGap, StaleAttempt
from service.execution.launches import Launch, describe_launch
from service.jobs import (
    analyses,
    checkpoints,
    lifecycle,
    logs,
    metrics,
    records,
    retention,
    warm_start,
)
from service.jobs.records import FindJob
from service.specs.job_spec import StartMode
from service.specs.protocol import (
    AttemptConfig,
    FinishAttemptRequest,
    LogLine,
    PartDigest,
    Report,
    ReportResponse,
    ResumeCheckpoint,
)
from service.specs.quota import Quota
from service.states import AttemptState, JobState, LogLevel, StopReason
from service.storage import changes
from service.storage.changes import ChangeKind
from service.storage.tables import AttemptRow, CheckpointRow, JobRow

# A training delivers its reports after an outage of this length; after a longer silence its machine
# was suspended.
_MAX_SILENCE_SECONDS = 900.0


def list_attempts(session: Session, job_id: str) -> list[AttemptRow]:
    """Oldest first."""
    statement = select(AttemptRow).where(AttemptRow.job_id == job_id).order_by(AttemptRow.number)
    return list(session.scalars(statement))


def build_config(session: Session, attempt_id: str) -> AttemptConfig:
    job, attempt = _find_active(session, attempt_id)
    return AttemptConfig(
        attempt_id=attempt.id,
        job_id=job.id,
        number=attempt.number,
        spec=records.spec_of(job),
        num_workers=attempt.num_workers,
        cpus_per_worker=attempt.cpus_per_worker,
        gpus_per_worker=attempt.gpus_per_worker,
        last_sequence=attempt.last_sequence,
        resume=_make_resume_checkpoint(session, job, attempt),
        others=[
            _describe_checkpoint(checkpoint)
            for checkpoint in warm_start.find_other_checkpoints(session, job)
        ],
        lost_iteration=_find_lost_iteration(session, job, attempt),
    )


def find_dataset(session: Session, attempt_id: str) -> str:
    """The name of the job's dataset."""
    job, _ = _find_active(session, attempt_id)
    return records.spec_of(job).dataset


def find_resume_checkpoint(session: Session, attempt_id: str) -> CheckpointRow:
    """NotFound where the attempt does not resume."""
    _, attempt = _find_active(session, attempt_id)
    checkpoint = _find_resume_checkpoint(session, attempt)
    if checkpoint is None:
        raise NotFound(f"attempt {attempt_id} does not resume from a checkpoint")
    return checkpoint


def find_other_checkpoint(session: Session, attempt_id: str, position: int) -> CheckpointRow:
    """A further checkpoint of an analysis. NotFound where it has none at this position."""
    job, _ = _find_active(session, attempt_id)
    others = warm_start.find_other_checkpoints(session, job)
    if position >= len(others):
        raise NotFound(f"attempt {attempt_id} has no other checkpoint {position}")
    return others[position]


def find_job_id(session: Session, attempt_id: str) -> str:
    """Also of an attempt that has ended."""
    attempt = session.get(AttemptRow, attempt_id)
    assert attempt is not None, "authenticated"
    return attempt.job_id


def require_active(session: Session, attempt_id: str) -> None:
    """StaleAttempt where the attempt has ended."""
    _find_active(session, attempt_id)


@dataclass(frozen=True)
class AppliedReport:
    """`obsolete_keys`: artifacts that nothing refers to once the transaction is committed.

    `launch`: where the report is of the first step.
    """

    response: ReportResponse
    obsolete_keys: list[str]
    launch: Launch | None = None


def apply_report(
    session: Session, attempt_id: str, report: Report, *, data_dir: Path, now: datetime
) -> AppliedReport:
    """Stores a report once and in its order; the response says whether to stop.

    The caller has checked that the artifacts of the report's checkpoints are stored. StaleAttempt
    where the attempt has ended, SequenceGap where an earlier report is missing.
    """
    job, attempt = _find_active(session, attempt_id, lifecycle.lock_job)
    _record_report_time(job, attempt, now=now)
    if report.sequence <= attempt.last_sequence:
        return AppliedReport(response=_make_response(job, attempt), obsolete_keys=[])
    if report.sequence > attempt.last_sequence + 1:
        raise SequenceGap(
            f"received report {report.sequence}; the next is {attempt.last_sequence + 1}"
        )
    attempt.last_sequence = report.sequence
    if attempt.state is AttemptState.STARTING:
        attempt.state = AttemptState.RUNNING
        attempt.started_at = now
        lifecycle.transition(session, job, JobState.RUNNING, now=now)
    if report.environment is not None:
        job.environment = report.environment.model_dump(mode="json")
    if report.launch_times is not None:
        attempt.data_ready_at = report.launch_times.data_ready_at
        attempt.first_step_at = report.launch_times.first_step_at
    _record_progress(session, job, attempt, report, now=now)
    logs.append_lines(session, job, attempt, report.logs)
    obsolete: list[str] = []
    if report.checkpoints:
        known = quotas.read_quotas(session)
        # Two sums that most services do not need.
        before = checkpoints.count_bytes(session, job.id) if storage_use.has_limit(known) else None
        for manifest in report.checkpoints:
            checkpoints.record_checkpoint(session, job, attempt, manifest, now=now)
        obsolete = retention.delete_superseded(session, job)
        if before is not None:
            session.flush()
            added_bytes = checkpoints.count_bytes(session, job.id) - before
            _log_exceeded_storage(
                session, job, attempt, known, added_bytes=added_bytes, data_dir=data_dir, now=now
            )
    return AppliedReport(
        response=_make_response(job, attempt),
        obsolete_keys=obsolete,
        launch=None if report.launch_times is None else describe_launch(job, attempt),
    )


def is_report_stored(session: Session, attempt_id: str, sequence: int) -> bool:
    """Whether the report was stored before: its artifacts may have been superseded and deleted.

    StaleAttempt where the attempt has ended.
    """
    _, attempt = _find_active(session, attempt_id)
    return sequence <= attempt.last_sequence


def finish_attempt(
    session: Session, attempt_id: str, request: FinishAttemptRequest, *, now: datetime
) -> JobState:
    """Ends the attempt for the reason that its processes report. Repeated, it changes nothing."""
    attempt = session.get(AttemptRow, attempt_id)
    assert attempt is not None, "authenticated"
    job = lifecycle.lock_job(session, attempt.job_id)
    session.refresh(attempt)
    if attempt.state is AttemptState.ENDED:
        if attempt.reason is request.reason:
            return job.state
        raise StaleAttempt(f"attempt {attempt_id} has ended: {attempt.reason}")
    _record_report_time(job, attempt, now=now)
    if request.analysis is not None:
        analyses.record_result(session, job, request.analysis)
        attempt.iteration = 1  # so that analyses of its kind know how long they take
    lifecycle.end_attempt(
        session,
        job,
        attempt,
        request.reason,
        message=request.message,
        result=request.result,
        now=now,
    )
    return job.state


def exceeds_time_limit(job: JobRow, *, grace_seconds: float = 0.0) -> bool:
    """Whether the job has trained, in all attempts, for longer than its limit plus the grace."""
    return job.trained_seconds > records.time_limit_of(job).total_seconds() + grace_seconds


def _find_active(
    session: Session, attempt_id: str, find_job: FindJob = records.find_job
) -> tuple[JobRow, AttemptRow]:
    """The attempt and its job. StaleAttempt where the attempt has ended.

    A job has at most one active attempt: the next is claimed after the last has ended.
    """
    job_id = session.scalar(select(AttemptRow.job_id).where(AttemptRow.id == attempt_id))
    if job_id is None:
        raise NotFound(f"no attempt {attempt_id!r}")
    job = find_job(session, job_id)
    attempt = session.get(AttemptRow, attempt_id, populate_existing=True)
    assert attempt is not None
    if attempt.state is AttemptState.ENDED:
        raise StaleAttempt(f"attempt {attempt_id} has ended: {attempt.reason}")
    return job, attempt


def _log_exceeded_storage(
    session: Session,
    job: JobRow,
    attempt: AttemptRow,
    known: dict[str, Quota],
    *,
    added_bytes: int,
    data_dir: Path,
    now: datetime,
) -> None:
    """The checkpoint is stored: without it a training could not resume. New jobs are refused."""
    exceeded = storage_use.find_exceeded(
        session,
        job.user,
        records.tags_of(job),
        known,
        data_dir=data_dir,
        added_bytes=added_bytes,
    )
    if exceeded is not None:
        message = f"{exceeded}, with this checkpoint; new jobs and uploads are refused"
        line = LogLine(at=now, level=LogLevel.WARNING, message=message)
        logs.append_lines(session, job, attempt, [line])


def _record_progress(
    session: Session, job: JobRow, attempt: AttemptRow, report: Report, *, now: datetime
) -> None:
    if report.progress is not None:
        before = records.progress_of(job)
        if before is None or before.iteration != report.progress.iteration:
            attempt.progressed_at = now
        job.progress = report.progress.model_dump(mode="json")
        # That of an analysis has a unit of its own.
        if report.progress.iterations == job.iterations:
            attempt.progress_iteration = report.progress.iteration
    if report.metrics:
        metrics.append_points(session, job, attempt, report.metrics)
        newest = max(point.iteration for point in report.metrics)
        if newest > (attempt.iteration or 0):
            attempt.iteration, attempt.progressed_at = newest, now
    if report.progress is not None or report.metrics:
        changes.notify(session, job.id, ChangeKind.PROGRESS)


def _record_report_time(job: JobRow, attempt: AttemptRow, *, now: datetime) -> None:
    if attempt.last_report_at is not None:
        seconds = (now - attempt.last_report_at).total_seconds()
        job.trained_seconds += min(max(0.0, seconds), _MAX_SILENCE_SECONDS)
    attempt.last_report_at = now


def _make_response(job: JobRow, attempt: AttemptRow) -> ReportResponse:
    stop_reason = job.stop_requested
    if stop_reason is None and exceeds_time_limit(job):
        stop_reason = StopReason.TIME_LIMIT
    return ReportResponse(last_sequence=attempt.last_sequence, stop_reason=stop_reason)


def _find_resume_checkpoint(session: Session, attempt: AttemptRow) -> CheckpointRow | None:
    if attempt.resume_checkpoint_id is None:
        return None
    return session.get(CheckpointRow, attempt.resume_checkpoint_id)


def _find_lost_iteration(session: Session, job: JobRow, attempt: AttemptRow) -> int | None:
    """Up to which iteration the job was trained before; None if its checkpoint exists, or none did.

    fsck removes checkpoints whose files are damaged or missing.
    """
    is_deleted = (
        attempt.resume_checkpoint_id is not None
        and _find_resume_checkpoint(session, attempt) is None
    )
    had_checkpoint = job.checkpointed_iteration > 0
    if is_deleted or (had_checkpoint and checkpoints.find_newest(session, job.id) is None):
        return max(job.checkpointed_iteration, attempt.first_iteration)
    return None


def _make_resume_checkpoint(
    session: Session, job: JobRow, attempt: AttemptRow
) -> ResumeCheckpoint | None:
    checkpoint = _find_resume_checkpoint(session, attempt)
    if checkpoint is None:
        return None
    start = records.spec_of(job).start_from
    is_own = checkpoint.job_id == job.id
    mode = None if is_own or start is None else start.mode
    return _describe_checkpoint(checkpoint, mode)


def _describe_checkpoint(
    checkpoint: CheckpointRow, mode: StartMode | None = None
) -> ResumeCheckpoint:
    return ResumeCheckpoint(
        checkpoint_id=checkpoint.id,
        iteration=checkpoint.iteration,
        mode=mode,
        parts=[
            PartDigest(part=part, sha256=file.sha256, size_bytes=file.size_bytes)
            for part, file in checkpoints.files_of(checkpoint).items()
        ],
    )
