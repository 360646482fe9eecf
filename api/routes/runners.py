"""Calls of runners, each with its own token: which attempt is next."""

from functools import partial

from fastapi import APIRouter, Request

from api import long_poll
from api.dependencies import ACTORS, CallingRunner, Services, ServicesDep
from service.execution import runners
from service.execution.credentials import CallerKind
from service.specs.protocol import NextAttemptRequest, NextAttemptResponse

router = APIRouter(prefix="/v1/runners/{runner_id}", tags=["attempts"])


@router.post("/next")
async def next_attempt(
    request: Request, runner_id: CallingRunner, body: NextAttemptRequest, services: ServicesDep
) -> NextAttemptResponse:
    """An attempt to run, as soon as there is one; an empty response after `wait_seconds`."""
    response = await long_poll.poll_until(
        request,
        services,
        partial(_next_attempt, services, runner_id, body),
        subject_ids=[runner_id],
        wait_seconds=body.wait_seconds,
        # Assigning an attempt again would replace the token of the response before.
        is_worth_asking=partial(_has_next_attempt, services, runner_id),
    )
    return response or NextAttemptResponse(assignment=None, should_exit=False)


def _next_attempt(
    services: Services, runner_id: str, body: NextAttemptRequest
) -> NextAttemptResponse | None:
    with services.database.transaction(actor=ACTORS[CallerKind.RUNNER]) as session:
        return runners.next_attempt(
            session,
            runner_id,
            trained_attempt_id=body.trained_attempt_id,
            is_exiting=body.is_exiting,
            now=services.now(),
        )


def _has_next_attempt(services: Services, runner_id: str) -> bool:
    with services.database.reading() as session:
        return runners.has_next_attempt(session, runner_id)
