"""The training loop: plain DDP, one optimizer step after another, every number to the observer.

A run that was stopped and resumed with as many workers is the run that was not, bit for bit on a
CPU: every decision hangs on the iteration and on sums that lie in the checkpoint, none on time.

Shapes: N batch, C channels, H height, W width; S sums.
"""

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from service.catalog.recipes import Precision
from service.specs.job_spec import JobSpec, StartMode
from service.specs.protocol import LaunchTimes, TrainingResult
from service.states import CheckpointPart, LogLevel, StopReason
from workers.training import checkpoint, cuda_graphs, distributed, precision, run_environment
from workers.training.checkpoint import Checkpoint, TrainProgress
from workers.training.data import augmentation
from workers.training.data.data_source import DataSource, open_data_source
from workers.training.device_context import DeviceContext
from workers.training.distributed import RankGroup
from workers.training.models import resnet
from workers.training.models.weight_init import init_from_checkpoint
from workers.training.observers import NullObserver, Observer
from workers.training.optimizer import Optimizer
from workers.training.sync_batch_norm import convert_sync_batch_norm
from workers.training.train_hooks import TrainHooks
from workers.training.train_step import TrainStep


@dataclass(frozen=True)
class Outcome:
    """`stopped` None: the training is done. The result's errors are of the last evaluation.

    The last checkpoint may still be on its way: see Observer.saving.
    """

    stopped: StopReason | None
    iteration: int
    result: TrainingResult


def train(
    spec: JobSpec,
    *,
    place: DeviceContext,
    data_path: Path,
    work_path: Path,
    observer: Observer,
    resume: Mapping[CheckpointPart, Path] | None = None,
    mode: StartMode | None = None,
) -> Outcome:
    """Trains the spec's network; with world_size > 1 in the default process group.

    Checkpoints are written to folders under `work_path`. `resume`: weights and state of the
    checkpoint to go on from, given to every rank; `mode`: it is another job's, used so.
    TrainingFault where it cannot go on.
    """
    place.settle()
    with distributed.join_ranks(rank=place.rank, world_size=place.world_size) as joined:
        heard = observer if place.rank == 0 else NullObserver()
        training = Trainer(spec, place, joined, heard, data_path=data_path, work_path=work_path)
        if resume is not None and mode in {None, StartMode.CONTINUE}:
            training.restore(checkpoint.load(resume, spec=spec, is_own=mode is None))
        elif resume is not None:
            training.begin_from(resume[CheckpointPart.WEIGHTS])
        with closing(training.stock):
            return training.run()


@dataclass(frozen=True)
class Batch:
    """A rank's share of the images of one step, and the learning rate to step with."""

    images_NCHW: Tensor
    labels_N: Tensor
    learning_rate: float


class Trainer:
    """A run, but for the steps themselves: what comes before each of them, and what follows.

    `run` takes the steps. Somebody else may: `begin`, then `next_batch` and `took` in turn.
    """

    def __init__(
        self,
        spec: JobSpec,
        place: DeviceContext,
        joined: RankGroup,
        observer: Observer,
        *,
        data_path: Path,
        work_path: Path,
    ) -> None:
        self.spec, self.recipe, self.place = spec, spec.recipe, place
        self.ranks, self.observer = joined, observer
        self.source: DataSource = open_data_source(
            spec, data_path, device=place.device, threads=place.threads
        )
        self.data_ready_at = datetime.now(UTC)
        self.model = resnet.build_network(spec, self.source.classes).to(place.device)
        if self.recipe.sync_batch_norm and place.world_size > 1:
            self.model = convert_sync_batch_norm(self.model)
        self.model.to(memory_format=torch.channels_last)
        self.optimizer = Optimizer(self.model, self.recipe)
        self.stock = TrainHooks(
            spec,
            place,
            joined,
            observer,
            source=self.source,
            model=self.model,
            optimizer=self.optimizer,
            work_path=work_path,
        )
        self.cursor = TrainProgress()
        self.computed_in = precision.resolve_precision(self.recipe.precision, place.device)
        self.stopped: StopReason | None = None
        self.has_launched = False

    def restore(self, saved: Checkpoint) -> None:
        self.cursor = saved.cursor
        if saved.cursor.computed_in is not None:
            # A run does not change its precision where `auto` means another here.
            self.computed_in = precision.resolve_precision(
                Precision(saved.cursor.computed_in), self.place.device
            )
        self.model.load_state_dict(saved.weights)
        self.optimizer.restore(saved.momentum, saved.cursor.learning_rate)
        self.stock.restore(saved)
        self.observer.log(LogLevel.INFO, f"goes on from iteration {self.cursor.iteration}")

    def begin_from(self, weights: Path) -> None:
        init_from_checkpoint(self.model, weights, self.spec, self.source, self.ranks)
        self.observer.log(LogLevel.INFO, "begins with another job's weights")

    def run(self) -> Outcome:
        self._tell_facts()
        images_NCHW, _ = self._batch()
        engine = TrainStep(
            self.model,
            self.ranks.parallel(self.model, images_NCHW),
            self.optimizer,
            self.recipe,
            computed_in=self.computed_in,
            device=self.place.device,
            recorder=cuda_graphs.make_recorder(self.place),
            log=self.observer.log,
        )
        self._start_clocks()
        while (batch := self.next_batch()) is not None:
            self.took(engine.step(batch.images_NCHW, batch.labels_N, batch.learning_rate))
        self.ranks.part_ways()
        return self.outcome

    def begin(self) -> None:
        """Of a run in this process alone, whose steps are another's."""
        self._tell_facts()
        self._start_clocks()

    def next_batch(self) -> Batch | None:
        """What the next step takes; None where the run is over, or is asked to stop."""
        if self.cursor.iteration >= self.recipe.iterations:
            return None
        self.stopped = self.ranks.agree(self.observer.stop)
        if self.stopped is not None:
            self.observer.log(LogLevel.INFO, f"stops at iteration {self.cursor.iteration}")
            self.cursor = self.stock.stop(self.cursor)
            return None
        learning_rate = self.recipe.learning_rate_at(
            self.cursor.iteration, is_warm=self.cursor.is_warm, drops=self.cursor.drops
        )
        self.cursor = replace(self.cursor, learning_rate=learning_rate)
        return Batch(*self._batch(), learning_rate)

    def took(self, sums_S: Tensor) -> None:
        """The step was taken; sums_S are this rank's. Whatever is due now is done."""
        self.stock.count(sums_S)
        self.cursor = replace(
            self.cursor,
            iteration=self.cursor.iteration + 1,
            training_seconds=time.monotonic() - self.began,
        )
        if not self.has_launched:
            self._tell_launch()
        self.cursor = self.stock.take(self.cursor)

    @property
    def outcome(self) -> Outcome:
        return Outcome(
            self.stopped,
            self.cursor.iteration,
            TrainingResult(
                train_error=self.cursor.train_error,
                test_error=self.cursor.test_error,
                training_seconds=self.cursor.training_seconds,
            ),
        )

    def _tell_facts(self) -> None:
        self.environment = run_environment.collect_environment(
            self.model,
            self.source,
            self.ranks,
            device=self.place.device,
            threads=self.place.threads,
            precision=self.computed_in,
        )
        self.observer.environment(self.environment)
        self.cursor = replace(self.cursor, computed_in=self.computed_in)

    def _start_clocks(self) -> None:
        self.began = time.monotonic() - self.cursor.training_seconds
        self.stock.begin(self.environment, self.cursor.iteration)

    def _tell_launch(self) -> None:
        self.has_launched = True
        self.place.wait()  # once, so that "done" means done
        self.observer.launched(
            LaunchTimes(data_ready_at=self.data_ready_at, first_step_at=datetime.now(UTC))
        )

    def _batch(self) -> tuple[Tensor, Tensor]:
        """This rank's share of the batch that is next."""
        start, stop = augmentation.batch_range(
            self.cursor.iteration,
            self.recipe.batch_size,
            rank=self.place.rank,
            world_size=self.place.world_size,
        )
        return self.source.batch(start, stop)
