"""How fast a run trains, without what it does between its steps."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class ThroughputMeter:
    """`images_per_second`: between the last two measurements; None before the first."""

    def __init__(self, images_per_iteration: int, iteration: int) -> None:
        self._images_per_iteration = images_per_iteration
        self._iteration, self._at = iteration, time.monotonic()
        self.images_per_second: float | None = None

    def measure(self, iteration: int) -> float:
        """Images per second since the last measurement, or since the beginning."""
        now = time.monotonic()
        images = (iteration - self._iteration) * self._images_per_iteration
        rate = images / (now - self._at)
        self.images_per_second = rate
        self._iteration, self._at = iteration, now
        return rate

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time in it does not count."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._at += time.monotonic() - began
