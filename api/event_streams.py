"""Server-sent events: what happened to a job or a search, and its progress, as it comes."""

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
from service.errors import Unavailable
from service.jobs import events, records
from service.searches import searches, trials

# Proxies close connections that are silent for a minute.
_KEEPALIVE_SECONDS = 15.0
_BATCH = 500


@dataclass(frozen=True)
class _StreamState:
    """Events after those that were told, and how things stand now; None: nothing to tell."""

    events: Sequence[EventView]
    progress: BaseModel | None
    is_final: bool


def follow_job(held: Services, job_id: str, *, after: int) -> Response:
    """Events that follow `after`, then those to come, until the job is final."""
    return _follow(held, partial(_look_at_job, held, job_id), after=after)


def follow_search(held: Services, search_id: str, *, after: int) -> Response:
    """As of a job; its progress is the whole search as it stands."""
    return _follow(held, partial(_look_at_search, held, search_id), after=after)


def _follow(held: Services, look: Callable[[int], _StreamState], *, after: int) -> Response:
    return StreamingResponse(
        _event_stream(held, look, after=after),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _event_stream(
    held: Services, look: Callable[[int], _StreamState], *, after: int
) -> AsyncIterator[bytes]:
    changed = held.changes.subscribe()
    told: BaseModel | None = None
    try:
        yield format_sse_event(retry=1000)
        while not held.changes.is_closing:
            changed.clear()
            try:
                seen = await run_in_threadpool(look, after)
            except Unavailable:
                # The reader comes again with Last-Event-ID, when the database may be back.
                return
            news = [_event(event) for event in seen.events]
            after = seen.events[-1].number if seen.events else after
            if seen.progress is not None and seen.progress != told:
                told = seen.progress
                # Nothing follows the event that makes it final.
                news.insert(0 if seen.is_final else len(news), _progress(seen.progress))
            for each in news:
                yield each
            if len(seen.events) == _BATCH:
                continue
            if seen.is_final:
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


def _progress(progress: BaseModel) -> bytes:
    return format_sse_event(event="progress", data_str=progress.model_dump_json())


def _look_at_job(held: Services, job_id: str, after: int) -> _StreamState:
    with held.database.reading() as session:
        job = records.find_job(session, job_id)
        found = events.list_events_after(session, job_id, after, limit=_BATCH)
        views = [EventView.of(event) for event in found]
        return _StreamState(views, ProgressView.of(job), job.state.is_final)


def _look_at_search(held: Services, search_id: str, after: int) -> _StreamState:
    with held.database.reading() as session:
        search = searches.find_search(session, search_id)
        found = searches.list_events_after(session, search_id, after, limit=_BATCH)
        views = [EventView.model_validate(event) for event in found]
        progress = SearchView.of(search, trials.read_progress(session, search, now=None))
        return _StreamState(views, progress, search.state.is_final)
