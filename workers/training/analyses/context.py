"""What an analysis works with, and how it reports progress and is stopped."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from service.specs.job_spec import JobSpec
from service.states import LogLevel, StopReason
from workers.training.analyses.analysed_network import AnalysedNetwork
from workers.training.data.data_source import DataSource
from workers.training.distributed import RankGroup
from workers.training.observers import Observer, Progress

_PROGRESS_SECONDS = 1.0


class AnalysisStopped(Exception):
    """Raised inside of an analysis that is asked to stop."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class AnalysisContext:
    """`networks`: of the checkpoint of `start_from` and of `others`, in their order, on the device.

    `source`: images of the spec's dataset, normalized as the first network's. `seed`: of what the
    analysis draws at random.
    """

    spec: JobSpec
    networks: Sequence[AnalysedNetwork]
    source: DataSource
    device: torch.device
    ranks: RankGroup
    observer: Observer
    _reported_at: float = field(default=0.0, init=False)

    @property
    def seed(self) -> int:
        return self.spec.seed

    def advance(self, done: int, total: int) -> None:
        """Called between steps, of which `done` of `total` are done. May raise AnalysisStopped."""
        requested = self.observer.stop_requested
        if requested is not None:
            raise AnalysisStopped(requested)
        now = time.monotonic()
        if now - self._reported_at >= _PROGRESS_SECONDS or done == total:
            self._reported_at = now
            self.observer.on_progress(Progress(done, total, images_per_second=None))

    def log(self, message: str) -> None:
        self.observer.on_log(LogLevel.INFO, message)
