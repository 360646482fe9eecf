"""Comparisons: two specs over paired seeds, with a test of their difference."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from pydantic import Field

from api import problems
from api.dependencies import (
    IdempotencyKey,
    Now,
    ReadSession,
    ServicesDep,
    User,
    WriteSession,
    authenticate_user,
    set_submission_headers,
)
from api.study_views import ComparisonView
from service.errors import CannotFit, IdempotencyMismatch, NotFound
from service.specs.base import Spec
from service.specs.study_spec import Seeds, StudyMetric
from service.studies import comparisons, records
from service.studies.report import make_report

router = APIRouter(
    prefix="/v1/comparisons", tags=["studies"], dependencies=[Depends(authenticate_user)]
)


class ComparisonRequest(Spec):
    a: Annotated[dict[str, Any], Field(description="fields of a job's spec, without seed and name")]
    b: Annotated[dict[str, Any], Field(description="the other spec, of the same dataset")]
    metric: StudyMetric = StudyMetric.TEST_ERROR
    seeds: Annotated[Seeds, Field(description="pairs; fewer than 6 cannot show a difference")] = 6


@router.post(
    "",
    status_code=HTTPStatus.CREATED,
    responses=problems.responses(CannotFit, IdempotencyMismatch),
)
def submit_comparison(
    comparison: ComparisonRequest,
    session: WriteSession,
    services: ServicesDep,
    now: Now,
    user: User,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> ComparisonView:
    """Compares two specs over seeds. Only seeds that no job has trained yet are submitted."""
    study = comparisons.make_study(
        comparison.a, comparison.b, metric=comparison.metric, seeds=comparison.seeds
    )
    submitted = records.submit(
        session,
        study,
        user=user,
        data_dir=services.settings.data_dir,
        now=now,
        idempotency_key=idempotency_key,
    )
    row = submitted.row
    set_submission_headers(
        response, location=f"/v1/comparisons/{row.id}", is_replay=submitted.is_replay
    )
    return ComparisonView.of(row, make_report(session, row, has_curves=False))


@router.get("/{comparison_id}", responses=problems.responses(NotFound))
def get_comparison(comparison_id: str, session: ReadSession) -> ComparisonView:
    """The comparison with its difference so far."""
    row = comparisons.find_comparison(session, comparison_id)
    return ComparisonView.of(row, make_report(session, row, has_curves=False))
