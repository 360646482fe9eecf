"""When a call to the API is repeated, and when that ends."""

from collections.abc import Callable
from typing import TypeVar

import structlog
import tenacity

from service.errors import Unavailable

# The API may be unavailable for ten minutes; an attempt that ends in that time still delivers.
DELIVERY_SECONDS = 900.0
MIN_DELAY_SECONDS = 0.25
MAX_DELAY_SECONDS = 15.0

# Random below a bound that doubles: processes that failed together do not return together.
_backoff = tenacity.wait_random_exponential(
    multiplier=2 * MIN_DELAY_SECONDS, min=MIN_DELAY_SECONDS, max=MAX_DELAY_SECONDS
)

T = TypeVar("T")

log = structlog.get_logger()


def retry_until(call: Callable[[], T], *, deadline_seconds: float) -> T:
    """Repeats the call while it raises Unavailable; raises that after the deadline."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Unavailable),
        stop=tenacity.stop_before_delay(deadline_seconds),
        wait=_backoff,
        before_sleep=_log_error,
        reraise=True,
    )
    return retrying(call)


def _log_error(state: tenacity.RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    log.warning("API unavailable", error=str(error))
