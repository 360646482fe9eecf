"""Predictions for an image that a person sends, by the exported network of a job."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from api import problems
from api.artifact_response import BYTES
from api.dependencies import Services, ServicesDep, authorize
from api.views import View
from service.errors import Conflict, InvalidInput, NotFound
from service.jobs import checkpoints, records
from service.jobs.checkpoints import CheckpointFile
from service.states import CheckpointPart
from service.storage.visibility import Visibility, restrict

router = APIRouter(
    prefix="/v1/jobs/{job_id}/predictions",
    tags=["predictions"],
    dependencies=[Depends(authorize)],
)


class ClassProbabilityView(View):
    """`label`: the number of the class in the order of the logits."""

    label: int
    class_name: Annotated[str, Field(description="the label where the network has no names")]
    probability: Annotated[float, Field(description="0 to 1; of all classes they sum to 1")]


class ImagePredictionView(View):
    """`iteration`: of the checkpoint. The likeliest classes, at most five, highest first."""

    job_id: str
    checkpoint_id: str
    iteration: int
    classes: list[ClassProbabilityView]


@router.post(
    "",
    responses=problems.responses(NotFound, Conflict)
    | {HTTPStatus.REQUEST_ENTITY_TOO_LARGE: problems.describe("body-too-large")},
    openapi_extra={"requestBody": {"required": True, "content": BYTES}},
)
async def predict_image(
    job_id: str, request: Request, services: ServicesDep
) -> ImagePredictionView:
    """What the network of a finished job sees on an image: the body is the bytes of its file.

    BMP, GIF, JPEG, PNG, PPM, TIFF or WebP of at most 16 MiB and 33,554,432 pixels. It is decoded,
    cropped and normalized as the evaluation does with test images.
    """
    visibility: Visibility = request.state.visibility
    async with services.session_slots:
        checkpoint_id, iteration, network = await run_in_threadpool(
            _find_network, services, visibility, job_id
        )
    image = await request.body()
    if not image:
        raise InvalidInput("the body is empty; send the bytes of an image file")
    classes = await services.predictor.predict(network, image)
    return ImagePredictionView(
        job_id=job_id,
        checkpoint_id=checkpoint_id,
        iteration=iteration,
        classes=[ClassProbabilityView.model_validate(found) for found in classes],
    )


def _find_network(
    services: Services, visibility: Visibility, job_id: str
) -> tuple[str, int, CheckpointFile]:
    """The id and iteration of the checkpoint, and its network that takes images of any size."""
    with services.database.reading() as session:
        restrict(session, visibility, is_default=True)
        job = records.find_job(session, job_id)
        checkpoint = checkpoints.find_export(session, job, CheckpointPart.ONNX_IMAGE)
        network = checkpoints.files_of(checkpoint)[CheckpointPart.ONNX_IMAGE]
        return checkpoint.id, checkpoint.iteration, network
