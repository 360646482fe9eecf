"""Threads that live as long as their process: no exception ends them."""

import random
import threading
from collections.abc import Callable

import structlog

from service.errors import Unavailable

log = structlog.get_logger()

_MIN_DELAY_SECONDS = 0.25
_MAX_DELAY_SECONDS = 15.0


def start_supervised(
    step: Callable[[], object], *, name: str, stopping: threading.Event
) -> threading.Thread:
    """Starts a thread that calls `run_supervised`."""
    thread = threading.Thread(
        target=run_supervised,
        args=(step,),
        kwargs={"name": name, "stopping": stopping},
        name=name,
        daemon=True,
    )
    thread.start()
    return thread


def run_supervised(step: Callable[[], object], *, name: str, stopping: threading.Event) -> None:
    """Calls `step`, which waits for its work itself, until `stopping` is set.

    An exception is logged; the next call follows after a quarter of a second, or twice as long as
    before where the last call failed as well, up to 15 s; each delay is shortened by up to a half,
    so that processes that failed together do not return together. An outage is one line in the log.
    """
    delay_seconds = _MIN_DELAY_SECONDS
    last_warning: str | None = None
    while not stopping.is_set():
        try:
            step()
        except Unavailable as error:
            if error.code != last_warning:
                log.warning("dependency unavailable", thread=name, error=str(error))
            last_warning = error.code
        except Exception:
            # Catches everything: an unforeseen exception must not end the thread.
            log.exception("thread failed, and continues", thread=name)
        else:
            delay_seconds, last_warning = _MIN_DELAY_SECONDS, None
            continue
        stopping.wait(delay_seconds * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
        delay_seconds = min(2 * delay_seconds, _MAX_DELAY_SECONDS)
