"""Where the time of training steps goes: batches, other ranks, and the rest, which is computation.

Nothing here waits for a device: a step costs four calls of `perf_counter`.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn


class StepWaits(NamedTuple):
    """Seconds of a step in which this rank waited, as means."""

    load: float
    synchronize: float


class StepTimer:
    """Measures the waits of this rank's steps.

    `load` is the time until a batch is there. `synchronize` is the part of the exchange of
    gradients that the backward pass does not hide: from the moment at which this rank has its own
    gradients until `backward` returns with the mean of all ranks. It includes the wait for slower
    ranks. On a rank that is late itself it is short.
    """

    def __init__(self) -> None:
        self._load_seconds = self._synchronize_seconds = 0.0
        self._steps = 0
        self._gradients_at: float | None = None

    def watch_gradients(self, model: nn.Module) -> None:
        """Must be called for `synchronize` to be measured. Only where `backward` waits on the host.

        The first layer has its gradient last.
        """
        first = next(model.parameters())
        first.register_post_accumulate_grad_hook(self._mark_gradients)  # type: ignore[no-untyped-call]

    @contextmanager
    def loading(self) -> Iterator[None]:
        """The batch of a step is loaded inside."""
        started = time.perf_counter()
        yield
        self._load_seconds += time.perf_counter() - started
        self._steps += 1

    def end_backward(self) -> None:
        if self._gradients_at is not None:
            self._synchronize_seconds += time.perf_counter() - self._gradients_at
            self._gradients_at = None

    def take(self) -> StepWaits:
        """The means since the last call."""
        steps = max(1, self._steps)
        waits = StepWaits(self._load_seconds / steps, self._synchronize_seconds / steps)
        self._load_seconds = self._synchronize_seconds = 0.0
        self._steps = 0
        return waits

    def _mark_gradients(self, _: Tensor) -> None:
        self._gradients_at = time.perf_counter()
