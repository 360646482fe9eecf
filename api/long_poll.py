"""Answers that wait until there is something to say."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from api.dependencies import Services

T = TypeVar("T")


async def poll_until(
    request: Request,
    held: Services,
    ask: Callable[[], T | None],
    *,
    wait_seconds: float,
    is_worth_asking: Callable[[], bool] = lambda: True,
) -> T | None:
    """What `ask` answers, at once or after a change; None when the wait is over.

    Both are called in threads. `is_worth_asking`: a cheaper look, before each but the first.
    """
    changed = held.changes.subscribe()
    try:
        answer = await run_in_threadpool(ask)
        deadline = asyncio.get_running_loop().time() + wait_seconds
        while answer is None and not held.changes.is_closing:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                break
            try:
                await asyncio.wait_for(changed.wait(), left)
            except TimeoutError:
                break
            changed.clear()
            # Who asks twice is answered once: the older answer would replace the newer's.
            if await request.is_disconnected():
                break
            if await run_in_threadpool(is_worth_asking):
                answer = await run_in_threadpool(ask)
        return answer
    finally:
        held.changes.unsubscribe(changed)
