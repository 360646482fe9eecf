"""Training throughput, without the time for evaluation and checkpoints."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class ThroughputMeter:
    """`images_per_second`: between the last two measurements; None before the first."""

    def __init__(self, images_per_iteration: int, iteration: int) -> None:
        self._images_per_iteration = images_per_iteration
        self._iteration, self._measured_at = iteration, time.monotonic()
        self.images_per_second: float | None = None

    def measure(self, iteration: int) -> float:
        """Images per second since the last measurement."""
        now = time.monotonic()
        images = (iteration - self._iteration) * self._images_per_iteration
        self.images_per_second = images / (now - self._measured_at)
        self._iteration, self._measured_at = iteration, now
        return self.images_per_second

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Excludes the time spent inside."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._measured_at += time.monotonic() - started
