"""Server-sent events: what happened to a job, and its progress, as it comes."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool

from api.dependencies import Services
from api.views import EventView, ProgressView
from service import events, jobs
from service.errors import Unavailable

# Proxies close connections that are silent for a minute.
_KEEPALIVE_SECONDS = 15.0
_BATCH = 500


def follow_job(held: Services, job_id: str, *, after: int) -> Response:
    """Events that follow `after`, then those to come, until the job is final."""
    return StreamingResponse(
        _follow(held, job_id, after=after),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _follow(held: Services, job_id: str, *, after: int) -> AsyncIterator[bytes]:
    changed = held.changes.subscribe()
    told: ProgressView | None = None
    try:
        yield format_sse_event(retry=1000)
        while not held.changes.is_closing:
            changed.clear()
            try:
                found, progress, is_final = await run_in_threadpool(_look, held, job_id, after)
            except Unavailable:
                # The reader comes again with Last-Event-ID, when the database may be back.
                return
            news = [_event(event) for event in found]
            after = found[-1].number if found else after
            if progress is not None and progress != told:
                told = progress
                # Nothing follows the event that makes the job final.
                news.insert(0 if is_final else len(news), _progress(progress))
            for each in news:
                yield each
            if len(found) == _BATCH:
                continue
            if is_final:
                return
            try:
                await asyncio.wait_for(changed.wait(), _KEEPALIVE_SECONDS)
            except TimeoutError:
                yield format_sse_event(comment="still here")
    finally:
        held.changes.unsubscribe(changed)


def _event(event: EventView) -> bytes:
    return format_sse_event(
        id=str(event.number), event=event.kind, data_str=event.model_dump_json()
    )


def _progress(progress: ProgressView) -> bytes:
    return format_sse_event(event="progress", data_str=progress.model_dump_json())


def _look(
    held: Services, job_id: str, after: int
) -> tuple[list[EventView], ProgressView | None, bool]:
    with held.database.reading() as session:
        job = jobs.find(session, job_id)
        found = events.after(session, job_id, after, limit=_BATCH)
        views = [EventView.of(event) for event in found]
        return views, ProgressView.of(job), job.state.is_final
