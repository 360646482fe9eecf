"""What may be asked of a job that is there, and jobs made from it."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Body, Depends, Response
from pydantic import BaseModel, ConfigDict

from api.dependencies import (
    IdempotencyKey,
    Now,
    ServicesDep,
    User,
    WriteSession,
    authenticate_user,
    set_submission_headers,
)
from api.views import JobView
from service.jobs import checkpoints, commands, retention, submission
from service.specs.job_spec import Priority

router = APIRouter(
    prefix="/v1/jobs/{job_id}", tags=["jobs"], dependencies=[Depends(authenticate_user)]
)


class Change(BaseModel):
    """What may change of a job that was submitted."""

    model_config = ConfigDict(extra="forbid")

    priority: Priority


@router.patch("")
def change(job_id: str, wanted: Change, session: WriteSession, now: Now) -> JobView:
    """Changes the priority; the job's place moves as if it had been submitted so."""
    return JobView.of(commands.change_priority(session, job_id, wanted.priority, now=now))


@router.delete("", status_code=HTTPStatus.NO_CONTENT)
def delete(job_id: str, held: ServicesDep, background: BackgroundTasks) -> None:
    """Forgets a job that has ended, with its metrics, logs and checkpoints."""
    with held.database.transaction() as session:
        attempts = retention.delete_job(session, job_id)
    # After the commit: rows must never promise bytes that are gone.
    background.add_task(checkpoints.delete_artifacts, held.artifacts, attempts)


@router.post("/hold")
def hold(job_id: str, session: WriteSession, now: Now) -> JobView:
    """Keeps a waiting job from starting until it is released."""
    return JobView.of(commands.hold(session, job_id, now=now))


@router.post("/release")
def release(job_id: str, session: WriteSession, now: Now) -> JobView:
    """Ends a hold; the job has kept its place."""
    return JobView.of(commands.release(session, job_id, now=now))


@router.post("/pause", status_code=HTTPStatus.ACCEPTED)
def pause(job_id: str, session: WriteSession, now: Now) -> JobView:
    """A waiting job does not start; a running one saves a checkpoint and frees its workers."""
    return JobView.of(commands.pause(session, job_id, now=now))


@router.post("/resume")
def resume(job_id: str, session: WriteSession, now: Now) -> JobView:
    """A paused job is back at its place in the queue."""
    return JobView.of(commands.resume(session, job_id, now=now))


@router.post("/cancel", status_code=HTTPStatus.ACCEPTED)
def cancel(job_id: str, session: WriteSession, now: Now) -> JobView:
    """Cancels a waiting job at once; a running one saves a checkpoint and stops."""
    return JobView.of(commands.cancel(session, job_id, now=now))


@router.post("/kill", status_code=HTTPStatus.ACCEPTED)
def kill(job_id: str, session: WriteSession, now: Now) -> JobView:
    """Ends a job without waiting for a checkpoint."""
    return JobView.of(commands.kill(session, job_id, now=now))


@router.post("/clone", status_code=HTTPStatus.CREATED)
def clone(
    job_id: str,
    session: WriteSession,
    now: Now,
    user: User,
    response: Response,
    changes: Annotated[dict[str, Any] | None, Body(description="fields of a spec")] = None,
    idempotency_key: IdempotencyKey = None,
) -> JobView:
    """A new job from the spec of this one, with the changes merged into it."""
    made = submission.clone(
        session, job_id, changes or {}, user=user, now=now, idempotency_key=idempotency_key
    )
    set_submission_headers(response, location=f"/v1/jobs/{made.job.id}", is_replay=made.is_replay)
    return JobView.of(made.job)
