"""A job's events as they happen, over server-sent events, without loss or doubling.

Where a stream breaks, what it would have told is read plainly, then it is opened again after
the last number seen. So a watch survives a restart of the server, and goes on, slower, behind
a proxy that lets no stream through.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager

import httpx
from httpx_sse import EventSource

from resnetd.decoding import decode
from resnetd.errors import CannotConnect, ServerError, Unavailable, UnexpectedAnswer
from resnetd.models import Event, EventKind
from resnetd.transport import Patience, Retry

OpenStream = Callable[[int], AbstractContextManager[httpx.Response]]
ReadRest = Callable[[int], tuple[list[Event], bool]]


def follow(
    open_stream: OpenStream, read_rest: ReadRest, *, after: int, retry: Retry
) -> Iterator[Event]:
    """Events after that number until the job is final.

    `open_stream(number)` opens the stream behind it; `read_rest(number)` reads the events behind
    it and whether the job is final by then. CannotConnect or Unavailable where nothing was heard
    for `retry.patience_seconds`.
    """
    seen = _Seen(after)
    delays = retry.delays()
    patience = Patience(retry)
    while True:
        try:
            with open_stream(seen.number) as response:
                for event in seen.only_new(read_events(response)):
                    patience.heard()
                    delays = retry.delays()
                    yield event
                    if event.makes_final:
                        return
        except (CannotConnect, ServerError):
            pass  # the plain read below says whether the service is still there
        try:
            rest, is_final = read_rest(seen.number)
        except (CannotConnect, Unavailable):
            if patience.is_over:
                raise
        else:
            patience.heard()
            yield from seen.only_new(rest)
            if is_final:
                return
        time.sleep(next(delays))


class _Seen:
    """The number of the newest event that was passed on."""

    def __init__(self, number: int) -> None:
        self.number = number

    def only_new(self, events: Iterable[Event]) -> Iterator[Event]:
        for event in events:
            if event.number is not None:
                if event.number <= self.number:
                    continue
                self.number = event.number
            yield event


def read_events(response: httpx.Response) -> Iterator[Event]:
    """Those of one stream; none where the answer is not a stream."""
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        return
    for message in EventSource(response).iter_sse():
        if not message.data:
            continue  # a comment that keeps the connection alive
        try:
            told = json.loads(message.data)
            if message.event == EventKind.PROGRESS and "kind" not in told:
                told = {"kind": message.event, "data": told}
            yield decode(Event, told)
        except ValueError as error:
            raise UnexpectedAnswer(f"the stream holds no event: {error}") from error
