"""When a failed request is repeated, and when the client gives up."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from resnetd.errors import CannotConnect, TooManyRequests, Unavailable

T = TypeVar("T")

Stop = Callable[[tenacity.RetryCallState], bool]
Sleep = Callable[[float], None]

# A proxy that asks for a longer wait is not obeyed: the caller would seem to hang.
_MAX_RETRY_AFTER_SECONDS = 60.0
# A longer wait for a limit of the service is logged.
_SILENT_SECONDS = 5.0
_LOGGER = logging.getLogger("resnetd")


@dataclass(frozen=True)
class Retry:
    """How often and how long a request is repeated that found no service, or too many others.

    Args:
        attempts: how often a request is made in total.
        first_delay_seconds: upper bound of the first delay; it doubles with each attempt. The
            delays are random below their bounds, so that clients that failed together do not
            return together. A `Retry-After` header is respected up to a minute, and that of a
            limit of the service in full.
        max_delay_seconds: upper bound of all delays.
        patience_seconds: how long `wait`, `watch` and `logs(follow=True)` repeat a request: a
            service that restarts does not end them. So long all requests are repeated that are
            above a limit of the service; if it asks for a longer wait, TooManyRequests is raised
            at once.
    """

    attempts: int = 5
    first_delay_seconds: float = 0.2
    max_delay_seconds: float = 5.0
    patience_seconds: float = 600.0

    def call(
        self,
        function: Callable[[], T],
        *,
        sleep: Sleep,
        patience_seconds: float | None = None,
    ) -> T:
        """Repeat `function` while it raises CannotConnect, Unavailable or TooManyRequests.

        `sleep` waits for a number of seconds. With `patience_seconds` the limit is that time
        instead of `attempts`.
        """
        if patience_seconds is not None:
            patient = tenacity.stop_before_delay(patience_seconds)
            return self._repeat(function, _is_transient, sleep, stop=patient, stop_refused=patient)
        return self._repeat(function, _is_transient, sleep, stop=self._after_attempts)

    def call_refused(self, function: Callable[[], T], *, sleep: Sleep) -> T:
        """Repeat `function` while the service has done nothing: it refused it or the connection."""
        return self._repeat(function, _is_without_effect, sleep, stop=self._after_attempts)

    @property
    def _after_attempts(self) -> Stop:
        return tenacity.stop_after_attempt(self.attempts)

    def _repeat(
        self,
        function: Callable[[], T],
        is_repeated: Callable[[BaseException], bool],
        sleep: Sleep,
        *,
        stop: Stop,
        stop_refused: Stop | None = None,
    ) -> T:
        refused = stop_refused or tenacity.stop_before_delay(self.patience_seconds)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_repeated),
            stop=lambda state: (refused if _is_refused(state) else stop)(state),
            wait=self._delay_seconds,
            before_sleep=_log_long_wait,
            sleep=sleep,
            reraise=True,
        )
        return retrying(function)

    def _delay_seconds(self, state: tenacity.RetryCallState) -> float:
        backoff = tenacity.wait_random_exponential(
            multiplier=self.first_delay_seconds, max=self.max_delay_seconds
        )(state)
        requested = getattr(_error_of(state), "retry_after_seconds", None) or 0.0
        limit = math.inf if _is_refused(state) else _MAX_RETRY_AFTER_SECONDS
        return max(backoff, min(requested, limit))


def _log_long_wait(state: tenacity.RetryCallState) -> None:
    if _is_refused(state) and state.upcoming_sleep > _SILENT_SECONDS:
        _LOGGER.warning("%s; waiting %.0f s", _error_of(state), state.upcoming_sleep)


def _error_of(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, CannotConnect | TooManyRequests | Unavailable)


def _is_without_effect(error: BaseException) -> bool:
    is_unsent = isinstance(error, CannotConnect) and not error.was_sent
    return is_unsent or isinstance(error, TooManyRequests)


def _is_refused(state: tenacity.RetryCallState) -> bool:
    return isinstance(_error_of(state), TooManyRequests)
