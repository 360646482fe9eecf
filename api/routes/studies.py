"""Studies: the paper's experiments as one request, and reports of their results so far."""

from enum import StrEnum
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

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
from api.queries import PageQuery
from api.study_views import DefinitionList, StudyPage, StudyReportView, StudyView
from service.access import audit
from service.errors import CannotFit, IdempotencyMismatch, NotFound, QuotaExceeded
from service.specs.study_spec import StudyRequest, resolve_study
from service.states import AuditKind
from service.studies import definitions, figure, formats, records
from service.studies.report import make_report

router = APIRouter(prefix="/v1", tags=["studies"], dependencies=[Depends(authorize)])


class ReportFormat(StrEnum):
    MARKDOWN = "md"
    LATEX = "tex"
    CSV = "csv"
    SVG = "svg"
    PNG = "png"


_TEXTS = {
    ReportFormat.MARKDOWN: formats.to_markdown,
    ReportFormat.LATEX: formats.to_latex,
    ReportFormat.CSV: formats.to_csv,
}


@router.get("/study-definitions")
def list_study_definitions() -> DefinitionList:
    """Definitions that `POST /v1/studies` takes by name."""
    return DefinitionList(definitions=list(definitions.list_definitions().values()))


@router.post(
    "/studies",
    status_code=HTTPStatus.CREATED,
    responses=problems.responses(CannotFit, IdempotencyMismatch, NotFound, QuotaExceeded),
)
def submit_study(
    study: StudyRequest,
    session: WriteSession,
    services: ServicesDep,
    now: Now,
    user: User,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> StudyReportView:
    """Submits the jobs of a study. Jobs that have trained the same already are reused."""
    definition = study.definition or definitions.find_definition(study.study or "")
    submitted = records.submit(
        session,
        resolve_study(study, definition),
        user=user,
        data_dir=services.settings.data_dir,
        now=now,
        idempotency_key=idempotency_key,
    )
    row = submitted.row
    set_submission_headers(
        response, location=f"/v1/studies/{row.id}", is_replay=submitted.is_replay
    )
    return StudyReportView.of_report(row, make_report(session, row, has_curves=False))


@router.get("/studies")
def list_studies(session: ReadSession, page: PageQuery) -> StudyPage:
    """Studies and comparisons, newest first."""
    found = records.list_page(
        session,
        limit=page.limit,
        token=page.page_token,
        id_prefix=page.id_prefix,
        archived=page.archived,
    )
    views = [StudyView.of(row) for row in found.rows]
    return StudyPage(studies=views, next_page_token=found.next_token)


@router.get("/studies/{study_id}", responses=problems.responses(NotFound))
def get_study(study_id: str, session: ReadSession) -> StudyReportView:
    """A study with its results so far."""
    row = records.find_study(session, study_id)
    return StudyReportView.of_report(row, make_report(session, row, has_curves=False))


@router.get(
    "/studies/{study_id}/report",
    response_class=Response,
    responses=problems.responses(NotFound) | describe_files(ReportFormat),
)
def get_study_report(
    study_id: str,
    session: ReadSession,
    file_format: Annotated[
        ReportFormat,
        Query(alias="format", description="a table (`md`, `tex`, `csv`), or the curves"),
    ] = ReportFormat.MARKDOWN,
) -> Response:
    """The results so far as a file; equal results give equal bytes."""
    row = records.find_study(session, study_id)
    is_figure = file_format not in _TEXTS
    report = make_report(session, row, has_curves=is_figure)
    content: str | bytes
    if file_format is ReportFormat.SVG:
        content = figure.draw(report, "svg")
    elif file_format is ReportFormat.PNG:
        content = figure.draw(report, "png")
    else:
        content = _TEXTS[file_format](report)
    name = f"{report.spec.definition.name}-{report.spec.scale}-{row.id}"
    return file_response(content, name=name, file_format=file_format)


@router.delete(
    "/studies/{study_id}",
    status_code=HTTPStatus.NO_CONTENT,
    responses=problems.responses(NotFound),
)
def delete_study(study_id: str, session: WriteSession, now: Now) -> None:
    """Deletes the study; its jobs stay."""
    owner = records.find_study(session, study_id).user
    audit.record(session, AuditKind.STUDY_DELETED, study_id, now=now, owner=owner)
    records.delete_study(session, study_id)
