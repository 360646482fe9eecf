"""What training processes call, each with its attempt's own token."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Header, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from api.dependencies import CallingAttempt, Now, ServicesDep, WriteSession
from service.errors import CorruptArtifact
from service.execution import attempts
from service.jobs import artifact_keys, checkpoints
from service.specs.protocol import (
    AttemptConfig,
    Count,
    FinishAttemptRequest,
    PartDigest,
    Report,
    ReportResponse,
    Sha256,
)
from service.states import CheckpointPart, JobState

router = APIRouter(prefix="/v1/attempts/{attempt_id}", tags=["attempts"])


class Finished(BaseModel):
    job_state: JobState


@router.get("")
def brief(attempt_id: CallingAttempt, session: WriteSession) -> AttemptConfig:
    """All that the training processes need to know to begin."""
    return attempts.build_config(session, attempt_id)


@router.post("/reports")
def report(
    attempt_id: CallingAttempt,
    report: Report,
    held: ServicesDep,
    now: Now,
    background: BackgroundTasks,
) -> ReportResponse:
    """Stores a report once and in its turn; the answer says whether to stop."""
    # The store is asked before the transaction begins: no network inside one.
    if report.checkpoints:
        _require_artifacts(held, attempt_id, report)
    with held.database.transaction() as session:
        applied = attempts.apply_report(session, attempt_id, report, now=now)
    if applied.obsolete_keys:
        background.add_task(held.artifacts.delete, applied.obsolete_keys)
    return applied.control


@router.put("/checkpoints/{iteration}/{part}", status_code=HTTPStatus.CREATED, max_body_size=2**50)
async def upload(
    attempt_id: CallingAttempt,
    iteration: Count,
    part: CheckpointPart,
    request: Request,
    held: ServicesDep,
    x_content_sha256: Annotated[Sha256, Header()],
) -> PartDigest:
    """The bytes of a part; they count once a report names them."""
    await run_in_threadpool(_check_living, held, attempt_id)
    stored = await held.artifacts.write(
        artifact_keys.checkpoint_key(attempt_id, iteration, part, x_content_sha256),
        request.stream(),
        sha256=x_content_sha256,
        max_bytes=held.settings.max_upload_bytes,
    )
    return PartDigest(part=part, sha256=stored.sha256, size_bytes=stored.size_bytes)


@router.get("/resume/{part}", response_class=StreamingResponse)
def resume(
    attempt_id: CallingAttempt, part: CheckpointPart, held: ServicesDep
) -> StreamingResponse:
    """The bytes of a part of the checkpoint to resume from."""
    with held.database.transaction() as session:
        checkpoint = attempts.find_resume_checkpoint(session, attempt_id)
    key = checkpoints.part_key(checkpoint, part)
    entry = checkpoint.parts[part.value]
    return StreamingResponse(
        held.artifacts.read(key),
        media_type="application/octet-stream",
        headers={"Content-Length": str(entry["size_bytes"]), "ETag": f'"{entry["sha256"]}"'},
    )


@router.post("/finish")
def finish(
    attempt_id: CallingAttempt, last_word: FinishAttemptRequest, session: WriteSession, now: Now
) -> Finished:
    """The attempt's own account of its end."""
    return Finished(job_state=attempts.finish_attempt(session, attempt_id, last_word, now=now))


def _require_artifacts(held: ServicesDep, attempt_id: str, report: Report) -> None:
    """CorruptArtifact where a new report names bytes that are not there."""
    with held.database.transaction() as session:
        if attempts.is_report_stored(session, attempt_id, report.sequence):
            return
    for note in report.checkpoints:
        for key, digest in attempts.list_artifact_keys(attempt_id, note).items():
            if held.artifacts.size(key) != digest.size_bytes:
                raise CorruptArtifact(f"{digest.part} of iteration {note.iteration} is not stored")


def _check_living(held: ServicesDep, attempt_id: str) -> None:
    """StaleAttempt where its bytes would be for nothing."""
    with held.database.transaction() as session:
        attempts.require_active(session, attempt_id)
