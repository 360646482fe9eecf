"""Two workers that share a machine's cores, beside one that has them all.

Both take turns in the same processes: while one trains alone, the other waits for it.

Shapes: N batch, C channels, H height, W width.
"""

import json
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from service.specs.job_spec import JobSpec
from workers.training import distributed, precision, spawn
from workers.training.data import data_source
from workers.training.data.augmentation import batch_range
from workers.training.device_context import DeviceContext
from workers.training.distributed import RankGroup
from workers.training.models import resnet
from workers.training.optimizer import Optimizer
from workers.training.train_step import TrainStep

STEPS = 10
ROUNDS = 9


def rates(spec: JobSpec, data_path: Path) -> tuple[float, float]:
    """Images/s of one process with all cores, and of two with half of them each: medians."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "rates.json"
        spawn.spawn(partial(_take_turns, spec, data_path, told), num_processes=2, threads=1)
        one, two = json.loads(told.read_text())
    return statistics.median(one), statistics.median(two)


def _take_turns(spec: JobSpec, data_path: Path, told: Path, place: DeviceContext) -> None:
    cores = len(os.sched_getaffinity(0))
    found: tuple[list[float], list[float]] = ([], [])
    with distributed.join_ranks(rank=place.rank, world_size=place.world_size) as joined:
        alone = _Worker(spec, data_path, DeviceContext(0, 1, place.device, cores), None)
        shared = _Worker(spec, data_path, place, joined)
        for _ in range(ROUNDS):
            if place.rank == 0:
                found[0].append(alone.turn(threads=cores))
            dist.barrier()
            found[1].append(shared.turn(threads=max(1, cores // place.world_size)))
            dist.barrier()
    if place.rank == 0:
        told.write_text(json.dumps(found))


class _Worker:
    """One process's part of a training, as the loop steps it. `joined` None: it is alone."""

    def __init__(
        self, spec: JobSpec, data_path: Path, place: DeviceContext, joined: RankGroup | None
    ) -> None:
        self._size, self._place, self._joined = spec.recipe.batch_size, place, joined
        self._source = data_source.open_data_source(spec, data_path, device=place.device, threads=1)
        model = resnet.build_network(spec, self._source.classes)
        model.to(memory_format=torch.channels_last)
        images_NCHW, _ = self._source.batch(0, self._size // place.world_size)
        self._engine = TrainStep(
            model,
            model if joined is None else joined.parallel(model, images_NCHW),
            Optimizer(model, spec.recipe),
            spec.recipe,
            computed_in=precision.resolve_precision(spec.recipe.precision, place.device),
            device=place.device,
        )
        self._learning_rate = spec.recipe.learning_rate
        self._iteration = 0
        self.turn(threads=1)  # the first, with its allocations, counts for nobody

    def turn(self, *, threads: int) -> float:
        """Images/s of all workers together."""
        torch.set_num_threads(threads)
        began = time.perf_counter()
        for _ in range(STEPS):
            if self._joined is not None:
                self._joined.agree(None)
            start, stop = batch_range(
                self._iteration,
                self._size,
                rank=self._place.rank,
                world_size=self._place.world_size,
            )
            self._engine.step(*self._source.batch(start, stop), self._learning_rate)
            self._iteration += 1
        if self._joined is not None:
            self._joined.part_ways()
        return STEPS * self._size / (time.perf_counter() - began)
