"""Checkpoints of a job, and downloads of their weights."""

import re
from enum import StrEnum
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import StreamingResponse

from api import problems
from api.artifact_response import BYTES, DOWNLOAD_RESPONSES, ArtifactResponse
from api.dependencies import ReadSession, RedirectSeconds, Services, ServicesDep, authorize
from api.views import CheckpointList, CheckpointView
from service.errors import NotFound
from service.jobs import checkpoints, model_versions, records
from service.states import CheckpointPart
from service.storage.database import Session
from service.storage.tables import CheckpointRow

router = APIRouter(
    prefix="/v1/jobs/{job_id}/checkpoints",
    tags=["checkpoints"],
    dependencies=[Depends(authorize)],
)


_CARD_TYPE = "text/markdown"
WEIGHTS_RESPONSES = (
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


FormatQuery = Annotated[
    WeightsFormat,
    Query(
        description="pt: a state_dict for torch.load(weights_only=True). pt2: a torch.export "
        "program. onnx-image and pt2-image take the bytes of an image of any size. card: the "
        "model card. All but safetensors exist for the last checkpoint of a finished training"
    ),
]


@router.get("", responses=problems.responses(NotFound))
def list_checkpoints(job_id: str, session: ReadSession) -> CheckpointList:
    """Checkpoints of the job, newest first."""
    records.find_job(session, job_id)
    found = checkpoints.list_checkpoints(session, job_id)
    names = model_versions.list_names(session, job_id)
    views = [CheckpointView.of(row, names=names.get(row.id, ())) for row in found]
    return CheckpointList(checkpoints=views)


@router.head(
    "/{checkpoint}/weights",
    response_class=StreamingResponse,
    operation_id="head_weights",
    responses=WEIGHTS_RESPONSES,
)
@router.get(
    "/{checkpoint}/weights",
    response_class=StreamingResponse,
    responses=WEIGHTS_RESPONSES,
)
def download_weights(
    job_id: str,
    checkpoint: Annotated[str, Path(description="`newest`, `best`, or the id of a checkpoint")],
    session: ReadSession,
    services: ServicesDep,
    redirect_seconds: RedirectSeconds,
    format: FormatQuery = WeightsFormat.SAFETENSORS,  # noqa: A002 - the query's name
) -> ArtifactResponse:
    """The weights of a checkpoint; `Range` continues a download that broke."""
    job = records.find_job(session, job_id)
    found = checkpoints.find_checkpoint(session, job_id, checkpoint)
    stem = f"{records.architecture_of(job).label}-{job.dataset}-{job.id}-{found.iteration}"
    return send_weights(
        session, services, found, format, stem=stem, redirect_seconds=redirect_seconds
    )


def send_weights(
    session: Session,
    services: Services,
    checkpoint: CheckpointRow,
    weights_format: WeightsFormat,
    *,
    stem: str,
    redirect_seconds: int,
) -> ArtifactResponse:
    """`stem`: of the file's name, in which the service replaces all but letters and digits."""
    file = checkpoints.find_file(session, checkpoint, weights_format.part)
    name = re.sub(r"[^A-Za-z0-9]+", "-", stem)
    return ArtifactResponse(
        services.artifacts,
        file,
        headers={"Content-Disposition": f'attachment; filename="{name}.{weights_format.suffix}"'},
        media_type=weights_format.media_type,
        redirect_seconds=redirect_seconds,
    )
