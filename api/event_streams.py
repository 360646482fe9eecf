"""Server-sent events: what happens to a job or a search, and its progress."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from api.dependencies import Services, authorize
from api.search_views import SearchView
from api.views import EventView, ProgressView
from service.errors import NotFound, Refused, Unavailable
from service.jobs import records as job_records
from service.searches import ranking
from service.searches import records as search_records
from service.storage import events
from service.storage.database import Session
from service.storage.tables import JobRow, SearchRow
from service.storage.visibility import Visibility, restrict

# A compressed stream arrives in blocks; a 204 is cached unless it says otherwise (RFC 9110).
HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
# Of the OpenAPI document, for routes that may answer with a stream.
RESPONSES: dict[int | str, dict[str, Any]] = {
    HTTPStatus.OK: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
    HTTPStatus.NO_CONTENT: {"description": "a stream would have no further event"},
}
# Proxies close connections on which nothing is sent for a minute.
KEEPALIVE_SECONDS = 15.0
BATCH_SIZE = 500
# Between two looks at a search, which has up to 10,000 trials.
SEARCH_SECONDS = 1.0


@dataclass(frozen=True)
class _Update:
    """Events that were not sent yet, and the current progress; None: not known yet.

    `subject_ids`: what it may change with.
    """

    subject_ids: Iterable[str]
    events: Sequence[EventView]
    progress: BaseModel | None
    is_final: bool


async def is_authorized(request: Request, services: Services, visibility: Visibility) -> bool:
    """Whether the caller may still follow, and sees the same rows as at the beginning."""
    try:
        await run_in_threadpool(authorize, request, services, None, None)
    except (Refused, Unavailable):
        return False
    return bool(request.state.visibility == visibility)


def follow_job(
    request: Request, services: Services, session: Session, job: JobRow, *, after: int
) -> Response:
    """Past and future events with a number above `after`, until the job is final.

    204 where no event will follow: it ends an EventSource, which reconnects after any 200.
    """
    return _follow(
        request,
        services,
        session,
        job,
        partial(_read_job, services, request.state.visibility, job.id),
        after=after,
    )


def follow_search(
    request: Request, services: Services, session: Session, search: SearchRow, *, after: int
) -> Response:
    """As `follow_job`; the progress of a search is its view, which takes long to read."""
    read = partial(_read_search, services, search.id)
    return _follow(
        request, services, session, search, read, after=after, min_seconds=SEARCH_SECONDS
    )


def _follow(
    request: Request,
    services: Services,
    session: Session,
    subject: JobRow | SearchRow,
    read: Callable[[int], _Update],
    *,
    after: int,
    min_seconds: float = 0.0,
) -> Response:
    # Not the number of the last event: events expire before their job.
    if subject.state.is_final and not events.list_events_after(session, subject, after, limit=1):
        return Response(status_code=HTTPStatus.NO_CONTENT, headers=HEADERS)
    return StreamingResponse(
        _event_stream(request, services, subject.id, read, after=after, min_seconds=min_seconds),
        media_type="text/event-stream",
        headers=HEADERS,
    )


async def _event_stream(
    request: Request,
    services: Services,
    subject_id: str,
    read: Callable[[int], _Update],
    *,
    after: int,
    min_seconds: float,
) -> AsyncIterator[bytes]:
    """Reads at most once in `min_seconds`. Ends with the right to read."""
    visibility: Visibility = request.state.visibility
    get_time = asyncio.get_running_loop().time
    authorized_at = get_time()
    sent_progress: BaseModel | None = None
    with services.changes.subscribe(subject_id) as changes:
        yield format_sse_event(retry=1000)
        while not services.changes.is_closing:
            changes.clear()
            if get_time() - authorized_at >= KEEPALIVE_SECONDS:
                authorized_at = get_time()
                if not await is_authorized(request, services, visibility):
                    return
            try:
                update = await run_in_threadpool(read, after)
            except (NotFound, Unavailable):
                # It was deleted, or the database does not respond. The client reconnects, with
                # Last-Event-ID, and gets the error as a response.
                return
            services.changes.follow(changes, update.subject_ids)
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
            await asyncio.sleep(min_seconds)
            if not await changes.wait(KEEPALIVE_SECONDS):
                yield format_sse_event(comment="keep-alive")


def _format_event(event: EventView) -> bytes:
    return format_sse_event(
        id=str(event.number), event=event.kind, data_str=event.model_dump_json()
    )


def _format_progress(progress: BaseModel) -> bytes:
    return format_sse_event(event="progress", data_str=progress.model_dump_json())


def _read_job(services: Services, visibility: Visibility, job_id: str, after: int) -> _Update:
    with services.database.reading() as session:
        restrict(session, visibility, is_default=True)
        job = job_records.find_job(session, job_id)
        found = events.list_events_after(session, job, after, limit=BATCH_SIZE)
        views = [EventView.of(event) for event in found]
        return _Update([job.id], views, ProgressView.of(job), job.state.is_final)


def _read_search(services: Services, search_id: str, after: int) -> _Update:
    with services.database.reading() as session:
        search = search_records.find_search(session, search_id)
        found = events.list_events_after(session, search, after, limit=BATCH_SIZE)
        views = [EventView.of(event) for event in found]
        progress = ranking.read_progress(session, search, now=None)
        jobs = [trial.job.id for trial in progress.trials if not trial.job.state.is_final]
        view = SearchView.of(search, progress)
        return _Update([search.id, *jobs], views, view, search.state.is_final)
