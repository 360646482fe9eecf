"""When a failed request is repeated, and when the client gives up."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from resnetd.errors import CannotConnect, Unavailable

T = TypeVar("T")

# A proxy that asks for a longer wait is not obeyed: the caller would seem to hang.
_MAX_RETRY_AFTER_SECONDS = 60.0


@dataclass(frozen=True)
class Retry:
    """How often and how long a request is repeated that found no service.

    Args:
        attempts: how often a request is made in total.
        first_delay_seconds: upper bound of the first delay; it doubles with each attempt. The
            delays are random below their bounds, so that clients that failed together do not
            return together. A `Retry-After` header is respected up to a minute.
        max_delay_seconds: upper bound of all delays.
        patience_seconds: how long `wait`, `watch` and `logs(follow=True)` repeat a request: a
            service that restarts does not end them.
    """

    attempts: int = 5
    first_delay_seconds: float = 0.2
    max_delay_seconds: float = 5.0
    patience_seconds: float = 600.0

    def call(self, function: Callable[[], T], *, patience_seconds: float | None = None) -> T:
        """Repeat `function` while it raises CannotConnect or Unavailable; then raise that.

        With `patience_seconds` the limit is that time instead of `attempts`.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((CannotConnect, Unavailable)),
            stop=tenacity.stop_after_attempt(self.attempts)
            if patience_seconds is None
            else tenacity.stop_before_delay(patience_seconds),
            wait=self._delay_seconds,
            reraise=True,
        )
        return retrying(function)

    def _delay_seconds(self, state: tenacity.RetryCallState) -> float:
        backoff = tenacity.wait_random_exponential(
            multiplier=self.first_delay_seconds, max=self.max_delay_seconds
        )(state)
        error = state.outcome.exception() if state.outcome is not None else None
        requested = getattr(error, "retry_after_seconds", None) or 0.0
        return max(backoff, min(requested, _MAX_RETRY_AFTER_SECONDS))
