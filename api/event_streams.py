"""Server-sent events: what happens to a job or a search, and its progress."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from fastapi import Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from api.dependencies import Services
from api.search_views import SearchView
from api.views import EventView, ProgressView
from service.errors import NotFound, Unavailable
from service.jobs import records as job_records
from service.searches import ranking
from service.searches import records as search_records
from service.storage import events

# Proxies close connections on which nothing is sent for a minute.
KEEPALIVE_SECONDS = 15.0
BATCH_SIZE = 500


@dataclass(frozen=True)
class _Update:
    """Events that were not sent yet, and the current progress; None: not known yet."""

    events: Sequence[EventView]
    progress: BaseModel | None
    is_final: bool


def follow_job(services: Services, job_id: str, *, after: int) -> Response:
    """Past and future events with a number above `after`, until the job is final."""
    return _follow(services, partial(_read_job, services, job_id), after=after)


def follow_search(services: Services, search_id: str, *, after: int) -> Response:
    """As `follow_job`; the progress of a search is its view."""
    return _follow(services, partial(_read_search, services, search_id), after=after)


def _follow(services: Services, read: Callable[[int], _Update], *, after: int) -> Response:
    return StreamingResponse(
        _event_stream(services, read, after=after),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _event_stream(
    services: Services, read: Callable[[int], _Update], *, after: int
) -> AsyncIterator[bytes]:
    changed = services.changes.subscribe()
    sent_progress: BaseModel | None = None
    try:
        yield format_sse_event(retry=1000)
        while not services.changes.is_closing:
            changed.clear()
            try:
                update = await run_in_threadpool(read, after)
            except (NotFound, Unavailable):
                # It was deleted, or the database does not respond. The client reconnects, with
                # Last-Event-ID, and gets the error as a response.
                return
            messages = [_format_event(event) for event in update.events]
            after = update.events[-1].number if update.events else after
            if update.progress is not None and update.progress != sent_progress:
                sent_progress = update.progress
                # The final event comes last.
                index = 0 if update.is_final else len(messages)
                messages.insert(index, _format_progress(update.progress))
            for message in messages:
                yield message
            if len(update.events) == BATCH_SIZE:
                continue
            if update.is_final:
                return
            try:
                await asyncio.wait_for(changed.wait(), KEEPALIVE_SECONDS)
            except TimeoutError:
                yield format_sse_event(comment="keep-alive")
    finally:
        services.changes.unsubscribe(changed)


def _format_event(event: EventView) -> bytes:
    return format_sse_event(
        id=str(event.number), event=event.kind, data_str=event.model_dump_json()
    )


def _format_progress(progress: BaseModel) -> bytes:
    return format_sse_event(event="progress", data_str=progress.model_dump_json())


def _read_job(services: Services, job_id: str, after: int) -> _Update:
    with services.database.reading() as session:
        job = job_records.find_job(session, job_id)
        found = events.list_events_after(session, job, after, limit=BATCH_SIZE)
        views = [EventView.of(event) for event in found]
        return _Update(views, ProgressView.of(job), job.state.is_final)


def _read_search(services: Services, search_id: str, after: int) -> _Update:
    with services.database.reading() as session:
        search = search_records.find_search(session, search_id)
        found = events.list_events_after(session, search, after, limit=BATCH_SIZE)
        views = [EventView.of(event) for event in found]
        progress = SearchView.of(search, ranking.read_progress(session, search, now=None))
        return _Update(views, progress, search.state.is_final)
