"""What runners ask, each with its own token: which attempt is next."""

import asyncio

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from api.dependencies import CallingRunner, Held, Services
from service import runners
from service.reports import Orders, Question

router = APIRouter(prefix="/v1/runners/{runner_id}", tags=["attempts"])


@router.post("/next")
async def next_orders(
    request: Request, runner_id: CallingRunner, question: Question, held: Held
) -> Orders:
    """An attempt to run, as soon as there is one; an empty answer when the wait is over."""
    changed = held.changes.subscribe()
    try:
        orders = await run_in_threadpool(_ask, held, runner_id, question)
        deadline = asyncio.get_running_loop().time() + question.wait_seconds
        while orders is None and not held.changes.is_closing:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                break
            try:
                await asyncio.wait_for(changed.wait(), left)
            except TimeoutError:
                break
            changed.clear()
            # Who asks twice is answered once: the older answer would replace the newer's token.
            if await request.is_disconnected():
                break
            if await run_in_threadpool(_has_orders, held, runner_id):
                orders = await run_in_threadpool(_ask, held, runner_id, question)
        return orders or Orders(order=None, is_dismissed=False)
    finally:
        held.changes.unsubscribe(changed)


def _ask(held: Services, runner_id: str, question: Question) -> Orders | None:
    with held.database.transaction() as session:
        return runners.next_orders(
            session,
            runner_id,
            trained=question.trained,
            is_leaving=question.is_leaving,
            now=held.now(),
        )


def _has_orders(held: Services, runner_id: str) -> bool:
    with held.database.reading() as session:
        return runners.has_orders(session, runner_id)
