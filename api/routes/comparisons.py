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
    authorize,
    set_submission_headers,
)
from api.study_views import ComparisonView
from service.errors import CannotFit, Conflict, IdempotencyMismatch, NotFound, QuotaExceeded
from service.searches import ranking
from service.searches import records as searches
from service.specs import search_space
from service.specs.base import MAX_NAME_LENGTH, Spec
from service.specs.study_spec import Seeds, StudyMetric
from service.studies import comparisons, records
from service.studies.report import make_report

router = APIRouter(prefix="/v1", tags=["studies"], dependencies=[Depends(authorize)])


Pairs = Annotated[Seeds, Field(description="pairs; fewer than 6 cannot show a difference")]


class ComparisonRequest(Spec):
    a: Annotated[dict[str, Any], Field(description="fields of a job's spec, without seed and name")]
    b: Annotated[dict[str, Any], Field(description="the other spec, of the same dataset")]
    metric: StudyMetric = StudyMetric.TEST_ERROR
    seeds: Pairs = 6


class ConfirmationRequest(Spec):
    seeds: Pairs = 6
    metric: StudyMetric = StudyMetric.TEST_ERROR


@router.post(
    "/comparisons",
    status_code=HTTPStatus.CREATED,
    responses=problems.responses(CannotFit, IdempotencyMismatch, QuotaExceeded),
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


@router.get("/comparisons/{comparison_id}", responses=problems.responses(NotFound))
def get_comparison(comparison_id: str, session: ReadSession) -> ComparisonView:
    """The comparison with its difference so far."""
    row = comparisons.find_comparison(session, comparison_id)
    return ComparisonView.of(row, make_report(session, row, has_curves=False))


@router.post(
    "/searches/{search_id}/confirm",
    status_code=HTTPStatus.CREATED,
    responses=problems.responses(NotFound, CannotFit, Conflict, QuotaExceeded),
)
def confirm_search(
    search_id: str,
    session: WriteSession,
    services: ServicesDep,
    now: Now,
    user: User,
    response: Response,
    request: ConfirmationRequest | None = None,
) -> ComparisonView:
    """Compares the best trial (a) with the search's own job (b) over seeds that it has not seen."""
    request = request or ConfirmationRequest()
    search = searches.find_search(session, search_id)
    best = ranking.pick_best(ranking.rank_trials(session, search))
    if not search.state.is_final or not best:
        raise Conflict(f"search {search_id} is {search.state} or has no best trial to confirm")
    default = search_space.make_trial_spec(searches.spec_of(search).job, {})
    study = comparisons.make_study(
        best[0].job.spec,
        default.model_dump(mode="json"),
        metric=request.metric,
        seeds=request.seeds,
        first_seed=default.seed + 1,
        title=f"Confirmation of {search.name}"[:MAX_NAME_LENGTH],
    )
    row = records.submit(
        session, study, user=user, data_dir=services.settings.data_dir, now=now
    ).row
    response.headers["Location"] = f"/v1/comparisons/{row.id}"
    return ComparisonView.of(row, make_report(session, row, has_curves=False))
