"""Checkpoints and the weights that people download."""

import re
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse

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


@router.get("/{which}/weights", response_class=StreamingResponse)
def download(
    job_id: str,
    which: str,
    held: ServicesDep,
    format: Annotated[  # noqa: A002 - the query's name
        Literal["safetensors", "pt", "onnx", "pt2", "md"],
        Query(
            description="pt: a state_dict for torch.load(weights_only=True); onnx, pt2 (a "
            "torch.export program) and md (the model card): of a finished training's newest"
        ),
    ] = "safetensors",
) -> StreamingResponse:
    """The weights of the `newest` or `best` checkpoint, or of the one with that id."""
    # The store is asked after the session is closed: no network inside one.
    with held.database.reading() as session:
        job = records.find_job(session, job_id)
        checkpoint = checkpoints.select_checkpoint(session, job_id, which)
    part = _PARTS[format]
    key = checkpoints.part_key(checkpoint, part)
    entry = checkpoint.parts[part.value]
    stem = re.sub(r"[^A-Za-z0-9]+", "-", f"{records.spec_of(job).network}-{job.dataset}")
    filename = f"{stem}-{job.id}-{checkpoint.iteration}.{format}"
    return StreamingResponse(
        held.artifacts.read(key),
        media_type="application/octet-stream",
        headers={
            "Content-Length": str(entry["size_bytes"]),
            "ETag": f'"{entry["sha256"]}"',
            "Content-Disposition": f'attachment; filename="{filename}"',
        },
    )
