"""What runners ask, each with its own token: which attempt is next."""

from functools import partial

from fastapi import APIRouter, Request

from api import long_poll
from api.dependencies import CallingRunner, Services, ServicesDep
from service.execution import runners
from service.specs.protocol import NextAttemptRequest, NextAttemptResponse

router = APIRouter(prefix="/v1/runners/{runner_id}", tags=["attempts"])


@router.post("/next")
async def next_orders(
    request: Request, runner_id: CallingRunner, question: NextAttemptRequest, held: ServicesDep
) -> NextAttemptResponse:
    """An attempt to run, as soon as there is one; an empty answer when the wait is over."""
    # An older answer's token would be replaced by a newer one's: it looks before it asks.
    orders = await long_poll.poll_until(
        request,
        held,
        partial(_ask, held, runner_id, question),
        wait_seconds=question.wait_seconds,
        is_worth_asking=partial(_has_orders, held, runner_id),
    )
    return orders or NextAttemptResponse(order=None, is_dismissed=False)


def _ask(
    held: Services, runner_id: str, question: NextAttemptRequest
) -> NextAttemptResponse | None:
    with held.database.transaction() as session:
        return runners.next_attempt(
            session,
            runner_id,
            trained=question.trained,
            is_leaving=question.is_leaving,
            now=held.now(),
        )


def _has_orders(held: Services, runner_id: str) -> bool:
    with held.database.reading() as session:
        return runners.has_next_attempt(session, runner_id)
