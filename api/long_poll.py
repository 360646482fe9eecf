"""Long polls: responses that wait for a change."""

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from api.dependencies import Services

T = TypeVar("T")


async def poll_until(
    request: Request,
    services: Services,
    ask: Callable[[], T | None],
    *,
    subject_ids: Iterable[str],
    wait_seconds: float,
    is_worth_asking: Callable[[], bool] = lambda: True,
) -> T | None:
    """Calls `ask` until it returns a value or the wait is over.

    At once, and after each change of what the response depends on, `subject_ids`.
    `is_worth_asking`: a cheaper check before every call but the first. Both run in threads.
    Unavailable where the process stops: the next process may be asked at once.
    """
    services.changes.require_open()
    with services.changes.subscribe(*subject_ids) as changes:
        changes.clear()
        async with services.session_slots:
            response = await run_in_threadpool(ask)
        deadline = asyncio.get_running_loop().time() + wait_seconds
        while response is None and not services.changes.is_closing:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                break
            if not await changes.wait(left):
                break
            changes.clear()
            # The value may be a new token: that for a closed connection would void the next one.
            if await request.is_disconnected():
                break
            if await run_in_threadpool(is_worth_asking):
                async with services.session_slots:
                    response = await run_in_threadpool(ask)
        return response
