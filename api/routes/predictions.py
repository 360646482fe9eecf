"""Predictions that finished jobs keep: confusion, ensembles, and two networks image by image."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from api import problems
from api.dependencies import ReadSession, ServicesDep, authorize
from api.views import View
from service.errors import NotFound
from service.jobs import predictions

router = APIRouter(prefix="/v1", tags=["predictions"], dependencies=[Depends(authorize)])

_MAX_JOBS = 20


class ConfusedPairView(View):
    """Test images of class `label` that the network predicts as class `predicted`."""

    label: int
    predicted: int
    images: int


class ConfusionView(View):
    """Classes are numbered in the order of the logits; errors in percent."""

    images: int
    class_names: list[str]
    class_images: list[int]
    class_errors: list[float | None]
    matrix: Annotated[
        list[list[int]] | None,
        Field(description="images by class and predicted class; null above 100 classes"),
    ]
    most_confused: list[ConfusedPairView]


class JobPredictionsView(View):
    job_id: str
    error: float
    top5_error: float


class EnsembleView(View):
    """Of the mean probabilities; null where a job keeps only its highest logits."""

    error: float | None
    top5_error: float | None


class PairedPredictionsView(View):
    """`p`: of McNemar's exact test. `images`: the first that only one of both predicts."""

    a: str
    b: str
    both_wrong: int
    only_a_wrong: int
    only_b_wrong: int
    p: float
    images: list[int]


class PredictionsView(View):
    images: int
    jobs: list[JobPredictionsView]
    ensemble: EnsembleView
    pairs: list[PairedPredictionsView]


@router.get("/jobs/{job_id}/confusion", responses=problems.responses(NotFound))
def get_confusion(job_id: str, session: ReadSession, services: ServicesDep) -> ConfusionView:
    """Which classes a finished job predicts as which, from the predictions that it keeps."""
    found = predictions.read_predictions(session, services.artifacts, job_id)
    counted = predictions.count_confusion(found)
    return ConfusionView(
        images=counted.images,
        class_names=found.class_names,
        class_images=counted.class_images,
        class_errors=counted.class_errors,
        matrix=counted.matrix,
        most_confused=[ConfusedPairView.model_validate(pair) for pair in counted.most_confused],
    )


@router.get("/predictions", responses=problems.responses(NotFound))
def compare_predictions(
    session: ReadSession,
    services: ServicesDep,
    job: Annotated[list[str], Query(min_length=1, max_length=_MAX_JOBS, description="ids")],
) -> PredictionsView:
    """Finished jobs of one dataset: their ensemble, and each pair image by image."""
    unique = list(dict.fromkeys(job))
    found = [predictions.read_predictions(session, services.artifacts, job_id) for job_id in unique]
    predictions.require_same_images(found)
    errors = [(item.job_id, *predictions.compute_errors(item)) for item in found]
    return PredictionsView(
        images=len(found[0].labels_N),
        jobs=[
            JobPredictionsView(job_id=job_id, error=error, top5_error=top5_error)
            for job_id, error, top5_error in errors
        ],
        ensemble=EnsembleView.model_validate(predictions.combine(found)),
        pairs=[
            PairedPredictionsView.model_validate(pair) for pair in predictions.compare_images(found)
        ],
    )
