"""Throughput and time of training steps, without evaluation and checkpoints."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class ThroughputMeter:
    """`images_per_second`: between the last two measurements; None before the first.

    `step_seconds`: of earlier attempts.
    """

    def __init__(
        self, images_per_iteration: int, iteration: int, *, step_seconds: float = 0.0
    ) -> None:
        self._images_per_iteration = images_per_iteration
        self._steps_since = time.monotonic() - step_seconds
        self._iteration, self._measured_at = iteration, time.monotonic()
        self.images_per_second: float | None = None

    def measure(self, iteration: int) -> float:
        """Images per second since the last measurement."""
        now = time.monotonic()
        images = (iteration - self._iteration) * self._images_per_iteration
        self.images_per_second = images / (now - self._measured_at)
        self._iteration, self._measured_at = iteration, now
        return self.images_per_second

    @property
    def step_seconds(self) -> float:
        """Since the run began, over all attempts."""
        return time.monotonic() - self._steps_since

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Excludes the time spent inside."""
        started = time.monotonic()
        try:
            yield
        finally:
            paused = time.monotonic() - started
            self._measured_at += paused
            self._steps_since += paused
