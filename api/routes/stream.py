"""One stream with everything that a page shows: responses of GET routes, again when they change.

A browser opens six connections to a host at most, over all of its tabs.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool

from api import event_streams, problems
from api.dependencies import Services, ServicesDep, authorize
from api.event_streams import KEEPALIVE_SECONDS
from api.shared_reads import JsonResponse, SharedReads
from service.errors import InvalidInput, Unavailable, invalid_parameter
from service.jobs import records
from service.storage.changes import ANYTHING
from service.storage.visibility import Visibility

router = APIRouter(prefix="/v1/stream", tags=["stream"])

_MAX_READS = 20
# Of these, all who see the same rows get the same response, in JSON and at once.
_PATH = re.compile(
    r"/v1/(jobs(/(?P<job_id>[^/]+)"
    r"(/(analyses|(?P<part>attempts|checkpoints|envelope|events|lineage|logs)))?)?"
    r"|searches(/[^/]+(/(trials|events))?)?|studies(/[^/]+)?|metrics|groups|queue|cluster|runners)"
)


@dataclass
class _Read:
    """`subject_ids`: with what the response changes. `after`: where the next one continues.

    `part`: of a job, which changes with the job's events or log lines and not with its progress.
    `count`: their number before the last read. `sent`: the last response that was sent.
    """

    path: str
    query: list[tuple[str, str]]
    subject_ids: list[str]
    part: str | None = None
    count: int | None = None
    after: str | None = None
    sent: JsonResponse | None = None

    @property
    def url(self) -> str:
        query = [
            (name, value) for name, value in self.query if name != "after" or self.after is None
        ]
        if self.after is not None:
            query.append(("after", self.after))
        return f"{self.path}?{urlencode(query)}"


@router.get(
    "",
    response_class=Response,
    responses={**event_streams.RESPONSES, **problems.responses(InvalidInput)},
    dependencies=[Depends(authorize)],
)
def follow(
    request: Request,
    services: ServicesDep,
    read: Annotated[
        list[Annotated[str, Query(max_length=8000)]],
        Query(
            min_length=1,
            max_length=_MAX_READS,
            description="path and query of a GET request: jobs, searches and what is below them, "
            "metrics, groups, queue, cluster or runners",
        ),
    ],
) -> Response:
    """The responses to several GET requests, at once and again whenever one has changed.

    Each message has as `data` a JSON object: the index of the `read`, its `status` and its `body`.
    After a body with `next`, the following ones continue there, as with `after`.
    """
    reads = [_parse(index, url) for index, url in enumerate(read)]
    return StreamingResponse(
        _follow(request, services, request.app.state.shared_reads, reads),
        media_type="text/event-stream",
        headers=event_streams.HEADERS,
    )


def _parse(index: int, url: str) -> _Read:
    parts = urlsplit(url)
    match = _PATH.fullmatch(parts.path)
    if parts.scheme or parts.netloc or match is None:
        raise invalid_parameter(f"/read/{index}", f"cannot be followed: {url!r}")
    query = parse_qsl(parts.query, keep_blank_values=True)
    in_query = [value for name, value in query if name == "job"]
    subject_ids = [match["job_id"]] if match["job_id"] is not None else in_query or [ANYTHING]
    return _Read(parts.path, query, subject_ids, part=match["part"])


async def _follow(
    request: Request, services: Services, shared: SharedReads, reads: list[_Read]
) -> AsyncIterator[bytes]:
    headers: Any = request.headers.raw
    visibility: Visibility = request.state.visibility
    subject_ids = {subject_id for read in reads for subject_id in read.subject_ids}
    get_time = asyncio.get_running_loop().time
    authenticated_at = get_time()
    complete_at = get_time()
    with services.changes.subscribe(*subject_ids) as changes:
        changes.clear()
        responses = [await shared.read_alone(read.url, headers) for read in reads]
        while True:
            for index, (read, response) in enumerate(zip(reads, responses, strict=True)):
                if response != read.sent:
                    read.sent = response
                    yield _format_message(index, response)
                if response.status == HTTPStatus.OK and response.next not in {None, read.after}:
                    # There may be more.
                    read.after, read.count = response.next, None
            if not await changes.wait(KEEPALIVE_SECONDS):
                # Estimates of waiting times change without a change in the database.
                yield format_sse_event(comment="keep-alive")
            if get_time() - authenticated_at >= KEEPALIVE_SECONDS:
                authenticated_at = get_time()
                if not await event_streams.is_authorized(request, services, visibility):
                    return
            if services.changes.is_closing:
                return
            # Before the wait: what changes later is read at the tick after.
            changes.clear()
            await shared.wait_for_tick()
            # What is not written as an event, as a new child of a job, is read less often.
            is_complete = get_time() - complete_at >= KEEPALIVE_SECONDS
            if is_complete:
                complete_at = get_time()
            responses = await asyncio.gather(
                *(
                    _read(read, services, shared, headers, visibility, is_complete=is_complete)
                    for read in reads
                )
            )


async def _read(
    read: _Read,
    services: Services,
    shared: SharedReads,
    headers: Any,
    visibility: Visibility,
    *,
    is_complete: bool,
) -> JsonResponse:
    """The response, or the last one where it cannot have changed."""
    if read.part is None:
        return await shared.read(read.url, headers, visibility=visibility)
    (job_id,) = read.subject_ids
    counts = await shared.share(f"counts of {job_id}", lambda: _count(services, job_id))
    count = None if counts is None else counts[read.part == "logs"]
    is_current = count is not None and count == read.count
    is_sent = read.sent is not None and read.sent.status == HTTPStatus.OK
    if read.sent is not None and is_current and is_sent and not is_complete:
        return read.sent
    # Counted before the read: what comes between them is read again.
    read.count = count
    return await shared.read(read.url, headers, visibility=visibility)


async def _count(services: Services, job_id: str) -> tuple[int, int] | None:
    """The numbers of events and log lines that the job has had; None if there is no such job."""

    def query() -> tuple[int, int] | None:
        with services.database.reading() as session:
            return records.count_events_and_log_lines(session, job_id)

    async with services.session_slots:
        try:
            return await run_in_threadpool(query)
        except Unavailable:
            return None  # the reads say so


def _format_message(index: int, response: JsonResponse) -> bytes:
    data = f'{{"read":{index},"status":{response.status},"body":{response.body}}}'
    return format_sse_event(event="response", data_str=data)
