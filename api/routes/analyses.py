"""Analyses of checkpoints: jobs of their own, and what they found."""

from enum import StrEnum
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
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
from api.file_response import describe_files, file_response
from api.queries import FilterText
from api.views import JobView, View
from service.errors import CannotFit, IdempotencyMismatch, NotFound, QuotaExceeded
from service.figures import FigureFormat
from service.jobs import analyses, analysis_figure, records
from service.jobs.analyses import AnalysisJob
from service.specs.analysis_request import AnalysisRequest
from service.specs.analysis_result import AnalysisResult
from service.states import JobState

router = APIRouter(prefix="/v1", tags=["analyses"], dependencies=[Depends(authorize)])


class AnalysisJobView(View):
    """An analysis of a job's checkpoint. `numbers`: null before it has a result."""

    job_id: str
    name: str
    kind: str
    analysis: Annotated[dict[str, Any], Field(description="its parameters")]
    dataset: str
    checkpoint_id: str
    iteration: Annotated[int, Field(description="of the checkpoint")]
    state: JobState
    numbers: dict[str, float | None] | None

    @classmethod
    def of(cls, found: AnalysisJob) -> "AnalysisJobView":
        job = found.job
        assert job.source_checkpoint_id is not None
        assert job.source_iteration is not None
        return cls(
            job_id=job.id,
            name=job.name,
            kind=job.kind,
            analysis=job.spec["analysis"],
            dataset=job.dataset,
            checkpoint_id=job.source_checkpoint_id,
            iteration=job.source_iteration,
            state=job.state,
            numbers=found.numbers,
        )


class AnalysisList(View):
    analyses: list[AnalysisJobView]


class ResultFormat(StrEnum):
    JSON = "json"
    CSV = "csv"
    SVG = "svg"
    PNG = "png"


_FILES = (ResultFormat.CSV, ResultFormat.SVG, ResultFormat.PNG)


@router.post(
    "/analyses",
    status_code=HTTPStatus.CREATED,
    responses=problems.responses(CannotFit, IdempotencyMismatch, QuotaExceeded),
)
def submit_analysis(
    request: AnalysisRequest,
    session: WriteSession,
    services: ServicesDep,
    now: Now,
    user: User,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> JobView:
    """Submits a job that analyses a checkpoint of another job."""
    submitted = analyses.submit(
        session,
        request,
        user=user,
        data_dir=services.settings.data_dir,
        now=now,
        idempotency_key=idempotency_key,
    )
    job = submitted.row
    set_submission_headers(response, location=f"/v1/jobs/{job.id}", is_replay=submitted.is_replay)
    return JobView.of(job)


@router.get("/jobs/{job_id}/analyses", responses=problems.responses(NotFound))
def list_analyses(job_id: str, session: ReadSession) -> AnalysisList:
    """Analyses of the job's checkpoints, newest first."""
    found = analyses.list_analyses(session, job_id)
    return AnalysisList(analyses=[AnalysisJobView.of(item) for item in found])


@router.get(
    "/jobs/{job_id}/analysis",
    response_model=AnalysisResult,
    responses=problems.responses(NotFound) | describe_files(_FILES),
)
def get_analysis(
    job_id: str,
    session: ReadSession,
    result_format: Annotated[
        ResultFormat, Query(alias="format", description="`csv`: a table; `svg`, `png`: the figure")
    ] = ResultFormat.JSON,
    table: Annotated[
        FilterText | None, Query(description="of the CSV file; default: the first")
    ] = None,
) -> AnalysisResult | Response:
    """What a finished analysis found; equal results give equal bytes."""
    job = records.find_job(session, job_id)
    result = analyses.read_result(session, job)
    if result_format is ResultFormat.JSON:
        return result
    content: str | bytes
    if result_format is ResultFormat.CSV:
        content = analyses.format_csv(result, table)
    else:
        kind: FigureFormat = "svg" if result_format is ResultFormat.SVG else "png"
        content = analysis_figure.draw(job, result, kind)
    return file_response(content, name=f"{job.kind}-{job.id}", file_format=result_format)
