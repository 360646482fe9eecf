"""Long polls: responses that wait for a change."""

import asyncio
from collections.abc import Callable
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
    wait_seconds: float,
    is_worth_asking: Callable[[], bool] = lambda: True,
) -> T | None:
    """Calls `ask` at once and after each change, until it returns a value or the wait is over.

    `is_worth_asking`: a cheaper check before every call but the first. Both run in threads.
    """
    changed = services.changes.subscribe()
    try:
        response = await run_in_threadpool(ask)
        deadline = asyncio.get_running_loop().time() + wait_seconds
        while response is None and not services.changes.is_closing:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                break
            try:
                await asyncio.wait_for(changed.wait(), left)
            except TimeoutError:
                break
            changed.clear()
            # The value may be a new token: that for a closed connection would void the next one.
            if await request.is_disconnected():
                break
            if await run_in_threadpool(is_worth_asking):
                response = await run_in_threadpool(ask)
        return response
    finally:
        services.changes.unsubscribe(changed)
