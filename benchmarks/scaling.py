"""Two workers that share the cores of a machine, against one worker with all of them.

Both measurements alternate in the same two processes: while one process trains alone, the other
waits.

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
from workers.training.data.sampling import batch_range
from workers.training.device_context import DeviceContext
from workers.training.distributed import RankGroup
from workers.training.models import resnet
from workers.training.optimizer import Optimizer
from workers.training.train_step import TrainStep

STEPS = 10
ROUNDS = 9


def measure_rates(spec: JobSpec, data_dir: Path) -> tuple[float, float]:
    """Median images/s of one process with all cores, and of two with half of them each."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rates.json"
        spawn.run_processes(partial(_measure, spec, data_dir, path), num_processes=2, threads=1)
        alone, shared = json.loads(path.read_text())
    return statistics.median(alone), statistics.median(shared)


def _measure(spec: JobSpec, data_dir: Path, path: Path, context: DeviceContext) -> None:
    cores = len(os.sched_getaffinity(0))
    alone_rates, shared_rates = [], []
    with distributed.join_ranks(rank=context.rank, world_size=context.world_size) as group:
        alone = _Worker(spec, data_dir, DeviceContext(0, 1, context.device, cores), None)
        shared = _Worker(spec, data_dir, context, group)
        for _ in range(ROUNDS):
            if context.rank == 0:
                alone_rates.append(alone.measure(threads=cores))
            dist.barrier()
            shared_rates.append(shared.measure(threads=max(1, cores // context.world_size)))
            dist.barrier()
    if context.rank == 0:
        path.write_text(json.dumps([alone_rates, shared_rates]))


class _Worker:
    """One process of a training. `group` None: it trains alone."""

    def __init__(
        self, spec: JobSpec, data_dir: Path, context: DeviceContext, group: RankGroup | None
    ) -> None:
        self._batch_size, self._context, self._group = spec.recipe.batch_size, context, group
        self._source = data_source.open_data_source(
            spec, data_dir, device=context.device, threads=1
        )
        model = resnet.build_network(spec, self._source.classes)
        model.to(memory_format=torch.channels_last)
        images_NCHW, _ = self._source.load_batch(0, self._batch_size // context.world_size)
        self._train_step = TrainStep(
            model,
            model if group is None else group.wrap_ddp(model, images_NCHW),
            Optimizer(model, spec.recipe),
            spec.recipe,
            resolved_precision=precision.resolve_precision(spec.recipe.precision, context.device),
            device=context.device,
        )
        self._learning_rate = spec.recipe.learning_rate
        self._iteration = 0
        # The first steps allocate memory.
        self.measure(threads=1)

    def measure(self, *, threads: int) -> float:
        """Trains some steps; images/s of all workers together."""
        torch.set_num_threads(threads)
        started = time.perf_counter()
        for _ in range(STEPS):
            if self._group is not None:
                self._group.agree(None)
            start, stop = batch_range(
                self._iteration,
                self._batch_size,
                rank=self._context.rank,
                world_size=self._context.world_size,
            )
            self._train_step(*self._source.load_batch(start, stop), self._learning_rate)
            self._iteration += 1
        if self._group is not None:
            self._group.close()
        return STEPS * self._batch_size / (time.perf_counter() - started)
