"""Checkpoints of a job, and downloads of their weights."""

import re
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import StreamingResponse

from api import problems
from api.artifact_response import BYTES, DOWNLOAD_RESPONSES, ArtifactResponse
from api.dependencies import ReadSession, ServicesDep, authorize
from api.views import CheckpointList, CheckpointView
from service.errors import NotFound
from service.jobs import checkpoints, records
from service.states import CheckpointPart

router = APIRouter(
    prefix="/v1/jobs/{job_id}/checkpoints",
    tags=["checkpoints"],
    dependencies=[Depends(authorize)],
)


_CARD_TYPE = "text/markdown"
_RESPONSES = (
    DOWNLOAD_RESPONSES
    | {
        status: DOWNLOAD_RESPONSES[status]
        | {"content": BYTES | {_CARD_TYPE: {"schema": {"type": "string"}}}}
        for status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT)
    }
    | problems.responses(NotFound)
)


class WeightsFormat(StrEnum):
    """The name of a part, but for the weights: their format is safetensors."""

    SAFETENSORS = "safetensors"
    PT = CheckpointPart.PT
    ONNX = CheckpointPart.ONNX
    ONNX_IMAGE = CheckpointPart.ONNX_IMAGE
    PT2 = CheckpointPart.PROGRAM
    PT2_IMAGE = CheckpointPart.PROGRAM_IMAGE
    CARD = CheckpointPart.CARD
    PREDICTIONS = CheckpointPart.PREDICTIONS

    @property
    def part(self) -> CheckpointPart:
        is_weights = self is WeightsFormat.SAFETENSORS
        return CheckpointPart.WEIGHTS if is_weights else CheckpointPart(self)

    @property
    def media_type(self) -> str:
        return _CARD_TYPE if self is WeightsFormat.CARD else "application/octet-stream"

    @property
    def suffix(self) -> str:
        """Of a file name: "onnx", "image.onnx", "md"."""
        if self is WeightsFormat.CARD:
            return "md"
        if self is WeightsFormat.PREDICTIONS:
            return "predictions.safetensors"
        return ".".join(reversed(self.split("-")))


@router.get("", responses=problems.responses(NotFound))
def list_checkpoints(job_id: str, session: ReadSession) -> CheckpointList:
    """Checkpoints of the job, newest first."""
    records.find_job(session, job_id)
    found = checkpoints.list_checkpoints(session, job_id)
    return CheckpointList(checkpoints=[CheckpointView.of(checkpoint) for checkpoint in found])


@router.head(
    "/{checkpoint}/weights",
    response_class=StreamingResponse,
    operation_id="head_weights",
    responses=_RESPONSES,
)
@router.get(
    "/{checkpoint}/weights",
    response_class=StreamingResponse,
    responses=_RESPONSES,
)
def download_weights(
    job_id: str,
    checkpoint: Annotated[str, Path(description="`newest`, `best`, or the id of a checkpoint")],
    session: ReadSession,
    services: ServicesDep,
    format: Annotated[  # noqa: A002 - the query's name
        WeightsFormat,
        Query(
            description="pt: a state_dict for torch.load(weights_only=True). pt2: a torch.export "
            "program. onnx-image and pt2-image take the bytes of an image of any size. card: the "
            "model card. All but safetensors exist for the last checkpoint of a finished training"
        ),
    ] = WeightsFormat.SAFETENSORS,
) -> ArtifactResponse:
    """The weights of a checkpoint; `Range` continues a download that broke."""
    job = records.find_job(session, job_id)
    found = checkpoints.find_checkpoint(session, job_id, checkpoint)
    file = checkpoints.find_file(session, found, format.part)
    stem = re.sub(r"[^A-Za-z0-9]+", "-", f"{records.architecture_of(job).label}-{job.dataset}")
    filename = f"{stem}-{job.id}-{found.iteration}.{format.suffix}"
    return ArtifactResponse(
        services.artifacts,
        file,
        headers={"Content-Disposition": f'attachment; filename="{filename}"'},
        media_type=format.media_type,
    )
