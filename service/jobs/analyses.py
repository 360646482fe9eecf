"""Analyses: jobs that compute something from a checkpoint of another job, and their results."""

import csv
import io
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.access import quotas
from service.catalog.recipes import Precision
from service.errors import FieldError, InvalidInput, NotFound
from service.jobs import records, submission
from service.specs.analysis_request import AnalysisRequest
from service.specs.analysis_result import AnalysisResult
from service.specs.analysis_spec import (
    TRAINING,
    AnalysisSpec,
    DeepenedTwinSpec,
    LayerStatisticsSpec,
    OtherCheckpoint,
    TrajectorySpec,
)
from service.specs.job_spec import JobSpec, Resources, StartMode, parse_job_spec
from service.storage import idempotency
from service.storage.idempotency import IdempotencyKey, Operation, Submission
from service.storage.tables import AnalysisResultRow, JobRow

_MAX_LISTED = 1_000
# Fields of the analysed job that are also the analysis'. Its other fields concern a training.
_NETWORK_AND_IMAGES = frozenset(JobSpec.model_fields) - {
    "after",
    "analysis",
    "hold",
    "max_restarts",
    "name",
    "preemptible",
    "priority",
    "resources",
    "retention",
    "start_from",
    "tags",
    "time_limit_minutes",
}


@dataclass(frozen=True)
class AnalysisJob:
    """`numbers`: of its result; None before it has one."""

    job: JobRow
    numbers: dict[str, float | None] | None


def submit(
    session: Session,
    request: AnalysisRequest,
    *,
    user: str,
    data_dir: Path,
    now: datetime,
    idempotency_key: str | None = None,
) -> Submission[JobRow]:
    """Creates the job of an analysis. Raises what `submission.submit` raises."""
    key = IdempotencyKey.of(Operation.SUBMIT_ANALYSIS, idempotency_key, user=user, body=[request])

    def create() -> list[JobRow]:
        spec = make_spec(session, request)
        known = quotas.read_quotas(session)
        submission.require_quotas(session, spec, known, user=user, data_dir=data_dir, now=now)
        return [submission.create_job(session, spec, user=user, data_dir=data_dir, now=now)]

    try:
        return idempotency.submit_once(session, JobRow, create, key=key)[0]
    except InvalidInput as error:
        raise type(error)(str(error), field_errors=_name_fields(error.field_errors)) from error


def make_spec(session: Session, request: AnalysisRequest) -> JobSpec:
    """The spec of the analysis' job. InvalidInput names the field of the request."""
    try:
        source = records.spec_of(records.find_job(session, request.job))
    except NotFound as error:
        field_error = FieldError(pointer="/job", message=str(error))
        raise InvalidInput("there is no such job", field_errors=(field_error,)) from error
    document: dict[str, Any] = source.model_dump(mode="json", include=set(_NETWORK_AND_IMAGES))
    if source.recipe.precision is Precision.TF32:
        # It needs a GPU, and an analysis computes in float32.
        document["recipe"]["precision"] = Precision.AUTO
    resources = request.resources or Resources(
        cpus_per_worker=source.resources.cpus_per_worker,
        gpus_per_worker=source.resources.gpus_per_worker,
    )
    document |= {
        "start_from": {
            "job": request.job,
            "checkpoint": request.checkpoint,
            "mode": StartMode.WEIGHTS,
        },
        "analysis": _complete_analysis(request, source).model_dump(mode="json"),
        "resources": resources.model_dump(mode="json"),
        "priority": request.priority,
        "tags": request.tags,
    }
    changed = {"dataset": request.dataset, "seed": request.seed, "name": request.name}
    return parse_job_spec(document | {k: v for k, v in changed.items() if v is not None})


def _complete_analysis(request: AnalysisRequest, source: JobSpec) -> AnalysisSpec:
    """With the further checkpoints that its kind uses by default."""
    analysis = request.analysis
    others: tuple[OtherCheckpoint, ...] = ()
    if isinstance(analysis, TrajectorySpec | LayerStatisticsSpec):
        others = (OtherCheckpoint(job=request.job, checkpoint="all"),)
        _require_own_checkpoints(request)
    elif isinstance(analysis, DeepenedTwinSpec) and analysis.depth is None:
        start = source.start_from
        if start is not None and start.job is not None and start.mode is StartMode.DEEPEN:
            others = (OtherCheckpoint(job=start.job, checkpoint=start.checkpoint),)
    return analysis if analysis.others else analysis.model_copy(update={"others": others})


def _require_own_checkpoints(request: AnalysisRequest) -> None:
    for index, other in enumerate(request.analysis.others):
        if other.job != request.job:
            message = f"must be {request.job}, the job to analyse; received {other.job}"
            field_error = FieldError(pointer=f"/analysis/others/{index}/job", message=message)
            raise InvalidInput("checkpoints must be of one job", field_errors=(field_error,))


def list_analyses(session: Session, job_id: str) -> list[AnalysisJob]:
    """Of the job's checkpoints, newest first; at most the newest 1,000."""
    records.find_job(session, job_id)
    rows = session.execute(
        select(JobRow, AnalysisResultRow.numbers)
        .outerjoin(AnalysisResultRow, AnalysisResultRow.job_id == JobRow.id)
        .where(JobRow.source_job_id == job_id, JobRow.kind != TRAINING)
        .order_by(JobRow.id.desc())
        .limit(_MAX_LISTED)
    )
    return [AnalysisJob(job, numbers) for job, numbers in rows]


def record_result(session: Session, job: JobRow, result: AnalysisResult) -> None:
    document = result.model_dump(mode="json")
    session.add(AnalysisResultRow(job_id=job.id, numbers=document["numbers"], document=document))


def read_result(session: Session, job: JobRow) -> AnalysisResult:
    """NotFound where the job is no analysis, or has not finished it."""
    row = session.get(AnalysisResultRow, job.id)
    if row is not None:
        return AnalysisResult.model_validate(row.document)
    if job.kind == TRAINING:
        raise NotFound(f"job {job.id} is a training, which has no result of an analysis")
    raise NotFound(f"the analysis {job.id} has no result; it is {job.state}")


def read_responses(result: AnalysisResult) -> list[float]:
    """The standard deviations of an analysis of kind `layer-responses`, in the layers' order."""
    (table,) = (table for table in result.tables if table.name == "layers")
    at = table.columns.index("std")
    return [float(row[at] or 0.0) for row in table.rows]


def format_csv(result: AnalysisResult, name: str | None = None) -> str:
    """The table of that name; None: the first, or without tables the numbers. NotFound."""
    tables = {table.name: (table.columns, table.rows) for table in result.tables}
    tables["numbers"] = (["name", "value"], [list(item) for item in result.numbers.items()])
    found = next(iter(tables.values())) if name is None else tables.get(name)
    if found is None:
        raise NotFound(f"the result has no table {name!r}; it has {', '.join(tables)}")
    columns, rows = found
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    return text.getvalue()


def _name_fields(field_errors: tuple[FieldError, ...]) -> tuple[FieldError, ...]:
    """With the request's pointers instead of the spec's."""
    return tuple(
        FieldError(pointer=field.pointer.removeprefix("/start_from"), message=field.message)
        for field in field_errors
    )
