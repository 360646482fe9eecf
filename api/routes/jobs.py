"""Jobs: submission, lists, one job and what it has recorded."""

from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from api import event_streams, problems
from api.dependencies import (
    Caller,
    IdempotencyKey,
    Now,
    ReadSession,
    ServicesDep,
    User,
    WriteSession,
    authorize,
    set_submission_headers,
)
from api.field_selection import FieldSelection
from api.queries import AfterNumber, EventQuery, FieldsQuery, FilterText, JobFilterQuery, PageQuery
from api.views import (
    AttemptList,
    AttemptView,
    EventList,
    JobList,
    JobPage,
    JobView,
    LineageJobView,
    LineageView,
    LogLineView,
    LogList,
    MetricsView,
    PlanView,
    ProgressView,
    SelectedJobPage,
    SeriesView,
)
from service.access.policy import require_tagged
from service.errors import CannotFit, IdempotencyMismatch, NotFound, QuotaExceeded
from service.execution import attempts
from service.jobs import lineage, logs, metrics, records, submission
from service.scheduling import queue_status
from service.scheduling.queue_status import QueueStatus
from service.specs.job_spec import JobSpec
from service.storage import events

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=[Depends(authorize)])

MAX_BATCH = 1_000


class JobBatch(BaseModel):
    model_config = ConfigDict(extra="forbid")

    jobs: Annotated[list[JobSpec], Field(min_length=1, max_length=MAX_BATCH)]


@router.post(
    "",
    status_code=HTTPStatus.CREATED,
    responses=problems.responses(CannotFit, IdempotencyMismatch, QuotaExceeded),
)
def submit_job(
    spec: JobSpec,
    session: WriteSession,
    services: ServicesDep,
    now: Now,
    caller: Caller,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> JobView:
    """Submits a job. `depth`, `shortcut` and `dataset` suffice; the rest has defaults."""
    require_tagged(caller, spec.tags)
    submitted = submission.submit(
        session,
        spec,
        user=caller.user,
        data_dir=services.settings.data_dir,
        now=now,
        idempotency_key=idempotency_key,
    )
    job = submitted.row
    set_submission_headers(response, location=f"/v1/jobs/{job.id}", is_replay=submitted.is_replay)
    return JobView.of(job)


@router.post(
    ":batch",
    status_code=HTTPStatus.CREATED,
    responses=problems.responses(CannotFit, IdempotencyMismatch, QuotaExceeded),
)
def submit_batch(
    batch: JobBatch,
    session: WriteSession,
    services: ServicesDep,
    now: Now,
    caller: Caller,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> JobList:
    """Submits all jobs or none. In `after`, `#0` is the first job of the batch."""
    for spec in batch.jobs:
        require_tagged(caller, spec.tags)
    submitted = submission.submit_batch(
        session,
        batch.jobs,
        user=caller.user,
        data_dir=services.settings.data_dir,
        now=now,
        idempotency_key=idempotency_key,
    )
    if all(job.is_replay for job in submitted):
        response.headers["Idempotency-Replayed"] = "true"
    return JobList(jobs=[JobView.of(job.row) for job in submitted])


@router.post(":plan", responses=problems.responses(CannotFit))
def plan_job(
    spec: JobSpec, session: ReadSession, services: ServicesDep, now: Now, user: User
) -> PlanView:
    """Estimates size, run time and queue wait of a job without submitting it."""
    planned = queue_status.plan_job(
        session,
        spec,
        user=user,
        data_dir=services.settings.data_dir,
        now=now,
    )
    return PlanView.of(planned)


@router.get("")
def list_jobs(
    session: ReadSession,
    page: PageQuery,
    filters: JobFilterQuery,
    sort: Annotated[
        FilterText | None, Query(description="FIELD or -FIELD; default: newest first")
    ] = None,
    fields: FieldsQuery = None,
) -> JobPage | SelectedJobPage:
    """Jobs that match all filters.

    A FIELD of `where` and `sort` is one of the spec, such as `recipe.batch_size`, of the job, such
    as `created_at`, `result.test_error`, or a newest metric, such as `metrics.train/loss`.
    """
    selection = FieldSelection(JobView, fields, "jobs") if fields is not None else None
    wanted = filters.make_filter(archived=page.archived, id_prefix=page.id_prefix)
    found = records.list_page(session, wanted, limit=page.limit, token=page.page_token, sort=sort)
    if selection is not None:
        jobs = [selection.pick(JobView.of(job).model_dump(mode="json")) for job in found.rows]
        return SelectedJobPage(jobs=jobs, next_page_token=found.next_token)
    return JobPage(jobs=[JobView.of(job) for job in found.rows], next_page_token=found.next_token)


@router.get("/{job_id}", responses=problems.responses(NotFound))
def get_job(job_id: str, session: ReadSession, services: ServicesDep, now: Now) -> JobView:
    """A job; if it waits, with the reason and an estimate of its start."""
    job = records.find_job(session, job_id)
    if not job.state.is_waiting:
        return JobView.of(job)
    queue_status = QueueStatus(session, data_dir=services.settings.data_dir, now=now)
    return JobView.of(job, queue_status.explain(job))


@router.get("/{job_id}/lineage", responses=problems.responses(NotFound))
def get_lineage(job_id: str, session: ReadSession) -> LineageView:
    """The jobs whose checkpoints it started from, and those that started from its own."""
    records.find_job(session, job_id)
    found = lineage.read_lineage(session, job_id)
    return LineageView(jobs=[LineageJobView.of(job) for job in found])


@router.get("/{job_id}/progress", responses=problems.responses(NotFound))
def get_progress(job_id: str, session: ReadSession) -> ProgressView | None:
    """Iteration, throughput and newest metrics; null until the training has started."""
    return ProgressView.of(records.find_job(session, job_id))


@router.get(
    "/{job_id}/metrics",
    response_model=MetricsView,
    responses={HTTPStatus.OK: {"content": {"text/csv": {}}}, **problems.responses(NotFound)},
)
def get_metrics(
    job_id: str,
    session: ReadSession,
    series: Annotated[list[FilterText] | None, Query()] = None,
    format: Annotated[Literal["json", "csv"], Query()] = "json",  # noqa: A002 - the query's name
) -> MetricsView | Response:
    """All points of all series, or of those named; `GET /v1/metrics` summarizes long ones."""
    job = records.find_job(session, job_id)
    if format == "csv":
        parts = metrics.iterate_csv(session, job, names=series or ())
        return Response("".join(parts), media_type="text/csv")
    found = metrics.read_series(session, job_id, names=series or ())
    return MetricsView(
        series={name: SeriesView.model_validate(values) for name, values in found.items()}
    )


@router.get(
    "/{job_id}/events",
    response_model=EventList,
    responses={**event_streams.RESPONSES, **problems.responses(NotFound)},
)
def list_events(
    job_id: str, session: ReadSession, services: ServicesDep, query: EventQuery
) -> EventList | Response:
    """Events of the job; a live stream for `Accept: text/event-stream`."""
    job = records.find_job(session, job_id)
    if query.is_stream:
        return event_streams.follow_job(
            query.request, services, session, job, after=query.stream_after
        )
    found = events.list_events_after(session, job, query.after, limit=query.limit)
    return EventList.of(found, after=query.after)


@router.get("/{job_id}/logs", responses=problems.responses(NotFound))
def list_logs(
    job_id: str,
    session: ReadSession,
    after: AfterNumber = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    tail: Annotated[
        int | None, Query(ge=0, le=10_000, description="only as many of the newest lines")
    ] = None,
) -> LogList:
    """Log lines of all attempts, oldest first."""
    job = records.find_job(session, job_id)
    if tail is not None:
        after = max(after, job.log_line_count - tail)
    found = logs.list_lines_after(session, job_id, after, limit=limit)
    lines = [LogLineView.of(line) for line in found]
    return LogList(lines=lines, next=lines[-1].number if lines else after)


@router.get("/{job_id}/attempts", responses=problems.responses(NotFound))
def list_attempts(job_id: str, session: ReadSession) -> AttemptList:
    """Attempts of the job, oldest first."""
    records.find_job(session, job_id)
    found = attempts.list_attempts(session, job_id)
    return AttemptList(attempts=[AttemptView.of(attempt) for attempt in found])
