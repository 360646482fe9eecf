"""Actions on an existing job."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Body, Depends, Response
from pydantic import Field

from api import problems
from api.dependencies import (
    Caller,
    IdempotencyKey,
    Now,
    ServicesDep,
    WriteSession,
    authorize,
    set_submission_headers,
)
from api.views import JobView
from service.access import audit
from service.access.policy import require_tagged
from service.errors import (
    CannotFit,
    Conflict,
    IdempotencyMismatch,
    IllegalTransition,
    NotFound,
    QuotaExceeded,
)
from service.jobs import checkpoints, commands, labels, records, retention, submission
from service.specs.job_spec import Priority
from service.specs.labels import JobLabelUpdate
from service.states import AuditKind

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["jobs"], dependencies=[Depends(authorize)])


class JobUpdate(JobLabelUpdate):
    priority: Annotated[
        Priority | None, Field(description="of a job that has not ended; higher starts first")
    ] = None


@router.patch("", responses=problems.responses(NotFound, IllegalTransition))
def update_job(job_id: str, update: JobUpdate, session: WriteSession, now: Now) -> JobView:
    """Changes the fields that are given.

    With another priority the job moves to the place that it would have had from the start.
    """
    job = labels.update_job(session, job_id, update, now=now)
    if update.priority is not None:
        job = commands.change_priority(session, job_id, update.priority, now=now)
    return JobView.of(job)


@router.delete(
    "", status_code=HTTPStatus.NO_CONTENT, responses=problems.responses(NotFound, Conflict)
)
def delete_job(
    job_id: str,
    session: WriteSession,
    services: ServicesDep,
    background: BackgroundTasks,
    now: Now,
) -> None:
    """Deletes a finished job with its metrics, logs and checkpoints."""
    owner = records.find_job(session, job_id).user
    attempt_ids = retention.delete_job(session, job_id)
    audit.record(session, AuditKind.JOB_DELETED, job_id, now=now, owner=owner)
    # Background tasks run after the commit.
    background.add_task(checkpoints.delete_artifacts, services.artifacts, attempt_ids)


@router.post("/hold", responses=problems.responses(NotFound, IllegalTransition))
def hold_job(job_id: str, session: WriteSession, now: Now) -> JobView:
    """Keeps a waiting job from starting until it is released."""
    return JobView.of(commands.hold(session, job_id, now=now))


@router.post("/release", responses=problems.responses(NotFound, IllegalTransition))
def release_job(job_id: str, session: WriteSession, now: Now) -> JobView:
    """Ends a hold; the job keeps its place in the queue."""
    return JobView.of(commands.release(session, job_id, now=now))


@router.post(
    "/pause",
    status_code=HTTPStatus.ACCEPTED,
    responses=problems.responses(NotFound, IllegalTransition),
)
def pause_job(job_id: str, session: WriteSession, now: Now) -> JobView:
    """A waiting job does not start; a running one saves a checkpoint and frees its workers."""
    return JobView.of(commands.pause(session, job_id, now=now))


@router.post("/resume", responses=problems.responses(NotFound, IllegalTransition))
def resume_job(job_id: str, session: WriteSession, now: Now) -> JobView:
    """Returns a paused job to its place in the queue."""
    return JobView.of(commands.resume(session, job_id, now=now))


@router.post(
    "/cancel",
    status_code=HTTPStatus.ACCEPTED,
    responses=problems.responses(NotFound, IllegalTransition),
)
def cancel_job(job_id: str, session: WriteSession, now: Now) -> JobView:
    """Cancels a waiting job at once; a running one saves a checkpoint and stops."""
    return JobView.of(commands.cancel(session, job_id, now=now))


@router.post(
    "/kill",
    status_code=HTTPStatus.ACCEPTED,
    responses=problems.responses(NotFound, IllegalTransition),
)
def kill_job(job_id: str, session: WriteSession, now: Now) -> JobView:
    """Ends a job at once, without a checkpoint."""
    return JobView.of(commands.kill(session, job_id, now=now))


@router.post(
    "/clone",
    status_code=HTTPStatus.CREATED,
    responses=problems.responses(NotFound, CannotFit, IdempotencyMismatch, QuotaExceeded),
)
def clone_job(
    job_id: str,
    session: WriteSession,
    services: ServicesDep,
    now: Now,
    caller: Caller,
    response: Response,
    changes: Annotated[
        dict[str, Any] | None, Body(description="fields of a job spec", examples=[{"seed": 1}])
    ] = None,
    idempotency_key: IdempotencyKey = None,
) -> JobView:
    """Submits the spec of this job with the changes merged into it."""
    submitted = submission.clone(
        session,
        job_id,
        changes or {},
        user=caller.user,
        data_dir=services.settings.data_dir,
        now=now,
        idempotency_key=idempotency_key,
    )
    job = submitted.row
    require_tagged(caller, records.tags_of(job))
    set_submission_headers(response, location=f"/v1/jobs/{job.id}", is_replay=submitted.is_replay)
    return JobView.of(job)
