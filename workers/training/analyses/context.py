"""What an analysis works with, and how it reports progress and is stopped."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from service.specs.job_spec import JobSpec
from service.states import LogLevel, StopReason
from workers.training.analyses import measuring
from workers.training.analyses.analysed_network import AnalysedNetwork
from workers.training.analyses.measuring import ImageSubset, NotAnalysable
from workers.training.data.data_source import DataSource, EvaluationSplit
from workers.training.distributed import RankGroup
from workers.training.observers import Observer, Progress

_PROGRESS_SECONDS = 1.0


class DrawsImages(Protocol):
    """The spec of an analysis that draws images of a split."""

    @property
    def split(self) -> str: ...
    @property
    def images(self) -> int | None: ...


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

    def load_images(self, spec: DrawsImages) -> ImageSubset:
        """The images that the spec of an analysis asks for."""
        split = EvaluationSplit(spec.split)
        return measuring.load_subset(self.source, split, count=spec.images, seed=self.seed)

    def list_checkpoints(self, *, most: int | None = None) -> dict[int, dict[str, Tensor]]:
        """The state_dicts of `others` by iteration, at most as many, from the first to the last.

        On the CPU, since a GPU may not have the memory for all of them.
        NotAnalysable if they are of two networks.
        """
        count = len(self.networks) - 1
        chosen = range(count) if most is None else spread_evenly(count, most)
        found, labels = {}, set()
        for index in chosen:
            network = self.networks[1 + index]
            labels.add(network.spec.architecture.label)
            state = network.model.state_dict()
            found[network.iteration] = {name: tensor.cpu() for name, tensor in state.items()}
        if len(labels) > 1:
            received = ", ".join(sorted(labels))
            raise NotAnalysable(f"checkpoints must be of one network, received {received}")
        return found

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


def spread_evenly(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers below `count`, with the first and the last.

    >>> spread_evenly(9, 3)
    [0, 4, 8]
    """
    if count <= most:
        return list(range(count))
    if most == 1:
        return [count - 1]
    return [round(step * (count - 1) / (most - 1)) for step in range(most)]
