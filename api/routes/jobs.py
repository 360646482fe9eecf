"""Jobs: submit, find, follow."""

import csv
import io
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api import event_streams
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
from api.views import (
    AttemptList,
    AttemptView,
    EventList,
    EventView,
    JobList,
    JobPage,
    JobView,
    LogLineView,
    LogList,
    MetricsView,
    PlanView,
    ProgressView,
    SeriesView,
)
from service import ids
from service.errors import FieldError, InvalidInput
from service.execution import attempts
from service.jobs import events, logs, metrics, records, submission
from service.scheduling import queue_status
from service.scheduling.queue_status import QueueStatus
from service.specs.job_spec import JobSpec
from service.states import JobState

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], dependencies=[Depends(authenticate_user)])

# PostgreSQL refuses a NUL in a text.
Words = Annotated[str, Query(max_length=120, pattern=r"^[^\x00]*$")]
MAX_BATCH = 1_000
AfterNumber = Annotated[int, Query(ge=0, le=2**31 - 1, description="only what has a higher number")]


@router.post("", status_code=HTTPStatus.CREATED)
def submit(
    spec: JobSpec,
    session: WriteSession,
    now: Now,
    user: User,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> JobView:
    """Saves a job and puts it into the queue; `depth`, `shortcut`, `dataset` are enough."""
    made = submission.submit(session, spec, user=user, now=now, idempotency_key=idempotency_key)
    set_submission_headers(response, location=f"/v1/jobs/{made.job.id}", is_replay=made.is_replay)
    return JobView.of(made.job)


class Batch(BaseModel):
    model_config = ConfigDict(extra="forbid")

    jobs: Annotated[list[JobSpec], Field(min_length=1, max_length=MAX_BATCH)]


@router.post(":batch", status_code=HTTPStatus.CREATED)
def submit_batch(
    batch: Batch,
    session: WriteSession,
    now: Now,
    user: User,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> JobList:
    """Saves all jobs or none. In `after`, `#0` is the batch's first job."""
    made = submission.submit_batch(
        session, batch.jobs, user=user, now=now, idempotency_key=idempotency_key
    )
    if all(one.is_replay for one in made):
        response.headers["Idempotency-Replayed"] = "true"
    return JobList(jobs=[JobView.of(one.job) for one in made])


@router.post(":plan")
def plan(spec: JobSpec, session: WriteSession, held: ServicesDep, now: Now, user: User) -> PlanView:
    """What the spec would become, how long it would wait and take; submits nothing."""
    made = queue_status.plan_job(
        session, spec, user=user, limits=held.settings.concurrency_limits, now=now
    )
    return PlanView.of(made)


@router.get("")
def page(
    session: ReadSession,
    state: Annotated[list[JobState] | None, Query()] = None,
    dataset: Words | None = None,
    tag: Annotated[list[Words] | None, Query()] = None,
    name: Annotated[Words | None, Query(description="part of the name")] = None,
    id_prefix: Annotated[str | None, Query(max_length=16)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    page_token: str | None = None,
) -> JobPage:
    """Jobs that match all that is given, newest first."""
    if page_token is not None and not ids.is_id(page_token):
        fault = FieldError(pointer="/page_token", message=f"is not of this service: {page_token!r}")
        raise InvalidInput("the request is not valid", field_errors=(fault,))
    if id_prefix is not None and not ids.is_id(id_prefix):
        return JobPage(jobs=[], next_page_token=None)
    found = records.list_page(
        session,
        limit=limit,
        before_id=page_token,
        states=state or (),
        dataset=dataset,
        tags=tag or (),
        name=name,
        id_prefix=id_prefix,
    )
    return JobPage(jobs=[JobView.of(job) for job in found.jobs], next_page_token=found.next_id)


@router.get("/{job_id}")
def show(job_id: str, session: ReadSession, held: ServicesDep, now: Now) -> JobView:
    """With why it waits, where it does."""
    job = records.find_job(session, job_id)
    if not job.state.is_waiting:
        return JobView.of(job)
    return JobView.of(
        job, QueueStatus(session, limits=held.settings.concurrency_limits, now=now).explain(job)
    )


@router.get("/{job_id}/progress")
def progress(job_id: str, session: ReadSession) -> ProgressView | None:
    """Null until the training processes are up."""
    return ProgressView.of(records.find_job(session, job_id))


@router.get("/{job_id}/metrics", response_model=MetricsView)
def read_metrics(
    job_id: str,
    session: ReadSession,
    series: Annotated[list[Words] | None, Query()] = None,
    points: Annotated[int | None, Query(ge=1, le=100_000)] = None,
    format: Annotated[Literal["json", "csv"], Query()] = "json",  # noqa: A002 - the query's name
) -> MetricsView | Response:
    """Series of metrics, each thinned to at most `points` of its own points."""
    records.find_job(session, job_id)
    found = metrics.read_series(session, job_id, names=series or (), points=points)
    if format == "csv":
        return Response(_as_csv(found), media_type="text/csv")
    return MetricsView(series={name: SeriesView.model_validate(one) for name, one in found.items()})


@router.get("/{job_id}/events", response_model=EventList)
def read_events(
    job_id: str,
    request: Request,
    held: ServicesDep,
    session: ReadSession,
    after: AfterNumber = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    last_event_id: Annotated[int | None, Header(ge=0, le=2**31 - 1)] = None,
) -> EventList | Response:
    """What happened to the job; as a live stream where text/event-stream is accepted."""
    records.find_job(session, job_id)
    if "text/event-stream" in request.headers.get("Accept", ""):
        start = after if last_event_id is None else last_event_id
        return event_streams.follow_job(held, job_id, after=start)
    found = events.list_events_after(session, job_id, after, limit=limit)
    return EventList(events=[EventView.of(event) for event in found])


@router.get("/{job_id}/logs")
def read_logs(
    job_id: str,
    session: ReadSession,
    after: AfterNumber = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> LogList:
    """Log lines of all attempts, oldest first."""
    records.find_job(session, job_id)
    found = logs.list_lines_after(session, job_id, after, limit=limit)
    return LogList(lines=[LogLineView.of(line) for line in found])


@router.get("/{job_id}/attempts")
def list_attempts(job_id: str, session: ReadSession) -> AttemptList:
    """Oldest first."""
    records.find_job(session, job_id)
    found = attempts.list_attempts(session, job_id)
    return AttemptList(attempts=[AttemptView.of(attempt) for attempt in found])


def _as_csv(found: dict[str, metrics.Series]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["series", "iteration", "value"])
    for name, series in found.items():
        for iteration, value in zip(series.iterations, series.values, strict=True):
            writer.writerow([name, iteration, "" if value is None else value])
    return text.getvalue()
