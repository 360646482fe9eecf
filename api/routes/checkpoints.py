"""Checkpoints of a job, and downloads of their weights."""

import re
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import StreamingResponse

from api.artifact_response import ArtifactResponse
from api.dependencies import ReadSession, ServicesDep, authenticate_user
from api.views import CheckpointList, CheckpointView
from service.jobs import checkpoints, records
from service.states import CheckpointPart

router = APIRouter(
    prefix="/v1/jobs/{job_id}/checkpoints",
    tags=["checkpoints"],
    dependencies=[Depends(authenticate_user)],
)

_PARTS = {
    "safetensors": CheckpointPart.WEIGHTS,
    "pt": CheckpointPart.PT,
    "onnx": CheckpointPart.ONNX,
    "pt2": CheckpointPart.PROGRAM,
    "md": CheckpointPart.CARD,
}


@router.get("")
def list_checkpoints(job_id: str, session: ReadSession) -> CheckpointList:
    """Newest first."""
    records.find_job(session, job_id)
    found = checkpoints.list_checkpoints(session, job_id)
    return CheckpointList(checkpoints=[CheckpointView.of(checkpoint) for checkpoint in found])


@router.get("/{checkpoint}/weights", response_class=StreamingResponse)
def download_weights(
    job_id: str,
    checkpoint: Annotated[str, Path(description="`newest`, `best`, or the id of a checkpoint")],
    session: ReadSession,
    services: ServicesDep,
    format: Annotated[  # noqa: A002 - the query's name
        Literal["safetensors", "pt", "onnx", "pt2", "md"],
        Query(
            description="pt: a state_dict for torch.load(weights_only=True). Only the newest "
            "checkpoint of a finished training has onnx, pt2 (a torch.export program) and md (the "
            "model card)"
        ),
    ] = "safetensors",
) -> ArtifactResponse:
    """The weights of a checkpoint."""
    job = records.find_job(session, job_id)
    found = checkpoints.find_checkpoint(session, job_id, checkpoint)
    file = checkpoints.find_file(found, _PARTS[format])
    stem = re.sub(r"[^A-Za-z0-9]+", "-", f"{records.spec_of(job).network}-{job.dataset}")
    filename = f"{stem}-{job.id}-{found.iteration}.{format}"
    return ArtifactResponse(
        services.artifacts,
        file,
        headers={"Content-Disposition": f'attachment; filename="{filename}"'},
    )
