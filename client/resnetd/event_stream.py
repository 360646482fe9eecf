"""Events of a job out of a stream of server-sent events."""

from collections.abc import Iterator

import httpx
import msgspec
from httpx_sse import EventSource

from resnetd.errors import UnexpectedResponse
from resnetd.models import Event, EventKind, Progress
from resnetd.records import parse


def stream_headers(after: int) -> dict[str, str]:
    """Of a request for the events with a number above `after`."""
    return {
        "Accept": "text/event-stream",
        "Cache-Control": "no-store",
        "Last-Event-ID": str(after),
    }


def read_new_events(response: httpx.Response, after: int) -> Iterator[Event]:
    """The events above `after` and all progress, until the connection ends."""
    for event in _read_events(response):
        if event.number is None or event.number > after:
            yield event


def _read_events(response: httpx.Response) -> Iterator[Event]:
    """The events until the connection ends; none where a proxy has replaced the stream."""
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        return
    for message in EventSource(response).iter_sse():
        if not message.data:
            continue  # a comment that keeps the connection alive
        try:
            document = msgspec.json.decode(message.data)
            if message.event == EventKind.PROGRESS:
                parse(Progress, document)  # Event.progress cannot fail after this
                document = {"kind": message.event, "data": document}
            event = parse(Event, document)
        except ValueError as error:
            raise UnexpectedResponse(f"unexpected response: not a valid Event: {error}") from error
        yield event
