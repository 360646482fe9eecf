"""How long to wait before the next try."""

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from service.errors import Unavailable

# The API may be away for ten minutes; an attempt that ends in them still delivers.
DELIVERY_SECONDS = 900.0
SHORTEST_SECONDS = 0.5
LONGEST_SECONDS = 15.0

T = TypeVar("T")

log = structlog.get_logger()


class Backoff:
    """Doubles from half a second to a quarter of a minute, each wait shortened by up to a half.

    Without the jitter every process of a cluster would come back in the same instant.
    """

    def __init__(self) -> None:
        self._ceiling = SHORTEST_SECONDS

    def next_seconds(self) -> float:
        seconds = self._ceiling * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        self._ceiling = min(self._ceiling * 2, LONGEST_SECONDS)
        return seconds

    def reset(self) -> None:
        self._ceiling = SHORTEST_SECONDS


def retry_until(
    call: Callable[[], T], *, deadline_seconds: float, given_up: threading.Event | None = None
) -> T:
    """Calls until it answers. The last Unavailable where it does not before the deadline."""
    backoff = Backoff()
    deadline = time.monotonic() + deadline_seconds
    given_up = given_up or threading.Event()
    while True:
        try:
            return call()
        except Unavailable as error:
            log.warning("waiting for an answer", error=str(error))
            seconds = backoff.next_seconds()
            if time.monotonic() + seconds >= deadline or given_up.wait(seconds):
                raise
