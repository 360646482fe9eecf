"""Calls of training processes, each with the token of its attempt."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Depends, Header, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from api import problems
from api.artifact_response import BYTES, DOWNLOAD_RESPONSES, ArtifactResponse
from api.dependencies import (
    CallingAttempt,
    Now,
    ReadSession,
    RedirectSeconds,
    Services,
    ServicesDep,
    WriteSession,
)
from service.catalog import dataset_archive, uploads
from service.errors import CorruptArtifact, NotFound, SequenceGap, StaleAttempt
from service.execution import attempts
from service.jobs import checkpoints
from service.specs.protocol import (
    AttemptConfig,
    AttemptDataset,
    Count,
    FinishAttemptRequest,
    PartDigest,
    Report,
    ReportResponse,
    Sha256,
    UploadedImages,
)
from service.states import CheckpointPart, JobState
from service.studies import analyses

router = APIRouter(prefix="/v1/attempts/{attempt_id}", tags=["attempts"])


class FinishAttemptResponse(BaseModel):
    job_state: JobState


@router.get("", responses=problems.responses(StaleAttempt))
def get_config(attempt_id: CallingAttempt, session: ReadSession) -> AttemptConfig:
    """All that the training processes need to know to begin."""
    return attempts.build_config(session, attempt_id)


def require_artifacts(attempt_id: CallingAttempt, report: Report, services: ServicesDep) -> Report:
    """CorruptArtifact where a new report names bytes that are not stored."""
    if not report.checkpoints:
        return report
    with services.database.reading() as session:
        if attempts.is_report_stored(session, attempt_id, report.sequence):
            return report
    for manifest in report.checkpoints:
        for part, file in checkpoints.files_of_manifest(attempt_id, manifest).items():
            if services.artifacts.size(file.key) != file.size_bytes:
                raise CorruptArtifact(
                    f"part {part} of iteration {manifest.iteration} is not stored"
                )
    return report


@router.post("/reports", responses=problems.responses(StaleAttempt, SequenceGap, CorruptArtifact))
def add_report(
    attempt_id: CallingAttempt,
    # A dependency, so that the artifact store is asked before the session begins.
    report: Annotated[Report, Depends(require_artifacts)],
    session: WriteSession,
    services: ServicesDep,
    now: Now,
    background: BackgroundTasks,
) -> ReportResponse:
    """Stores a report once and in its order; the response says whether to stop."""
    applied = attempts.apply_report(
        session, attempt_id, report, data_dir=services.settings.data_dir, now=now
    )
    if applied.obsolete_keys:
        background.add_task(services.artifacts.delete, applied.obsolete_keys)
    if applied.launch is not None and services.tracer is not None:
        background.add_task(services.tracer.send, applied.launch)
    return applied.response


@router.put(
    "/checkpoints/{iteration}/{part}",
    status_code=HTTPStatus.CREATED,
    max_body_size=2**50,
    responses=problems.responses(StaleAttempt, CorruptArtifact),
    openapi_extra={"requestBody": {"required": True, "content": BYTES}},
)
async def upload_part(
    attempt_id: CallingAttempt,
    iteration: Count,
    part: CheckpointPart,
    request: Request,
    services: ServicesDep,
    x_content_sha256: Annotated[Sha256, Header()],
) -> PartDigest:
    """The bytes of a part; they count once a report names them."""
    await run_in_threadpool(_require_active, services, attempt_id)
    stored = await services.artifacts.write(
        checkpoints.artifact_key(attempt_id, iteration, part, x_content_sha256),
        request.stream(),
        sha256=x_content_sha256,
        max_bytes=services.settings.max_upload_bytes,
    )
    return PartDigest(part=part, sha256=stored.sha256, size_bytes=stored.size_bytes)


@router.get(
    "/resume/{part}",
    response_class=StreamingResponse,
    responses=DOWNLOAD_RESPONSES | problems.responses(NotFound, StaleAttempt),
)
def download_resume_part(
    attempt_id: CallingAttempt,
    part: CheckpointPart,
    session: ReadSession,
    services: ServicesDep,
    redirect_seconds: RedirectSeconds,
) -> ArtifactResponse:
    """The bytes of a part of the checkpoint to resume from."""
    checkpoint = attempts.find_resume_checkpoint(session, attempt_id)
    file = checkpoints.find_file(session, checkpoint, part)
    return ArtifactResponse(services.artifacts, file, redirect_seconds=redirect_seconds)


@router.get(
    "/others/{position}/{part}",
    response_class=StreamingResponse,
    responses=DOWNLOAD_RESPONSES | problems.responses(NotFound, StaleAttempt),
)
def download_other_part(
    attempt_id: CallingAttempt,
    position: Count,
    part: CheckpointPart,
    session: ReadSession,
    services: ServicesDep,
    redirect_seconds: RedirectSeconds,
) -> ArtifactResponse:
    """The bytes of a part of a further checkpoint that an analysis uses."""
    checkpoint = attempts.find_other_checkpoint(session, attempt_id, position)
    file = checkpoints.find_file(session, checkpoint, part)
    return ArtifactResponse(services.artifacts, file, redirect_seconds=redirect_seconds)


@router.get("/dataset", responses=problems.responses(StaleAttempt))
def get_dataset(
    attempt_id: CallingAttempt, session: ReadSession, services: ServicesDep
) -> AttemptDataset:
    """Where a node has the images of the job from: its own copy, or this API."""
    name = attempts.find_dataset(session, attempt_id)
    upload = uploads.find_upload(uploads.folder_of(name, services.settings.data_dir))
    if upload is None:
        return AttemptDataset(upload=None)
    return AttemptDataset(
        upload=UploadedImages(sha256=upload.content_sha256, stored_bytes=upload.stored_bytes)
    )


@router.get(
    "/dataset/archive",
    response_class=StreamingResponse,
    responses={HTTPStatus.OK: {"content": {"application/x-tar": {}}}}
    | problems.responses(NotFound, StaleAttempt),
)
def download_dataset(
    attempt_id: CallingAttempt, session: ReadSession, services: ServicesDep
) -> StreamingResponse:
    """The images of an uploaded dataset as a tar file, whose SHA-256 `GET dataset` has."""
    name = attempts.find_dataset(session, attempt_id)
    folder = uploads.folder_of(name, services.settings.data_dir)
    if uploads.find_upload(folder) is None:
        raise NotFound(f"{name} was not uploaded")
    return StreamingResponse(dataset_archive.stream_archive(folder), media_type="application/x-tar")


@router.post("/finish", responses=problems.responses(StaleAttempt))
def finish(
    attempt_id: CallingAttempt,
    body: FinishAttemptRequest,
    session: WriteSession,
    services: ServicesDep,
    now: Now,
) -> FinishAttemptResponse:
    """Why the attempt ended; nothing follows."""
    job_state = attempts.finish_attempt(session, attempt_id, body, now=now)
    if job_state is JobState.SUCCEEDED:
        job_id = attempts.find_job_id(session, attempt_id)
        analyses.submit_due(session, job_id, data_dir=services.settings.data_dir, now=now)
    return FinishAttemptResponse(job_state=job_state)


def _require_active(services: Services, attempt_id: str) -> None:
    """StaleAttempt where the attempt has ended: nothing could refer to its bytes."""
    with services.database.reading() as session:
        attempts.require_active(session, attempt_id)
