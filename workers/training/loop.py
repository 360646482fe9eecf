"""The training loop: plain DDP, one optimizer step after another, every number to the observer.

A run that was stopped and resumed with as many workers is the run that was not, bit for bit on a
CPU: every decision hangs on the iteration and on sums that lie in the checkpoint, none on time.

Shapes: N batch, C channels, H height, W width; R ranks, W windows, S sums.
"""

import math
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from service.recipes import Precision, Recipe, Schedule
from service.reports import Launch, LogLevel, MetricPoint, Part, Progress, Result
from service.spec import How, JobSpec
from service.states import StopReason
from workers.training import (
    augment,
    checkpoint,
    export,
    facts,
    graphs,
    precision,
    ranks,
    resnet,
    tally,
)
from workers.training.beginnings import take_over
from workers.training.checkpoint import Checkpoint, Cursor
from workers.training.engine import Engine
from workers.training.evaluation import Tester
from workers.training.export import Finished
from workers.training.faults import Diverged
from workers.training.observers import Observer, Unheard
from workers.training.optimizer import Optimizer
from workers.training.pace import Pace
from workers.training.place import Place
from workers.training.ranks import Ranks
from workers.training.saving import Export, Saver
from workers.training.sources import Source, open_source
from workers.training.synchronized import synchronize

# Of the progress that the observer is told beside the metrics.
PROGRESS_SECONDS = 1.0

# On so many test images an exported network is compared with the network itself.
EXPORTED_IMAGES = 16

# Rows of the sums under way: since the last report of metrics, since the last evaluation.
REPORT, EVALUATION = 0, 1


@dataclass(frozen=True)
class Outcome:
    """`stopped` None: the training is done. The result's errors are of the last evaluation.

    The last checkpoint may still be on its way: see Observer.saving.
    """

    stopped: StopReason | None
    iteration: int
    result: Result


def train(
    spec: JobSpec,
    *,
    place: Place,
    data_path: Path,
    work_path: Path,
    observer: Observer,
    resume: Mapping[Part, Path] | None = None,
    how: How | None = None,
) -> Outcome:
    """Trains the spec's network; with world_size > 1 in the default process group.

    Checkpoints are written to folders under `work_path`. `resume`: weights and state of the
    checkpoint to go on from, given to every rank; `how`: it is another job's, used so.
    TrainingFault where it cannot go on.
    """
    place.settle()
    with ranks.join(rank=place.rank, world_size=place.world_size) as joined:
        heard = observer if place.rank == 0 else Unheard()
        training = Training(spec, place, joined, heard, data_path=data_path, work_path=work_path)
        if resume is not None and how in {None, How.CONTINUE}:
            training.restore(checkpoint.load(resume, spec=spec, is_own=how is None))
        elif resume is not None:
            training.begin_from(resume[Part.WEIGHTS])
        with closing(training.saver):
            return training.run()


def report_every(recipe: Recipe) -> int:
    """Iterations between two reports of metrics: some hundred over a run, or every fifth.

    A divisor of evaluate_every where there is one near; a resumed run reports at the same ones.
    """
    wanted = max(5, recipe.iterations // 500)
    divisors = [step for step in range(1, wanted + 1) if recipe.evaluate_every % step == 0]
    return divisors[-1] if 2 * divisors[-1] >= wanted else wanted


@dataclass(frozen=True)
class Batch:
    """A rank's share of the images of one step, and the learning rate to step with."""

    images_NCHW: Tensor
    labels_N: Tensor
    learning_rate: float


class Training:
    """A run, but for the steps themselves: what comes before each of them, and what follows.

    `run` takes the steps. Somebody else may: `begin`, then `next_batch` and `took` in turn.
    """

    def __init__(
        self,
        spec: JobSpec,
        place: Place,
        joined: Ranks,
        observer: Observer,
        *,
        data_path: Path,
        work_path: Path,
    ) -> None:
        self.spec, self.recipe, self.place = spec, spec.recipe, place
        self.ranks, self.observer = joined, observer
        self.source: Source = open_source(
            spec, data_path, device=place.device, threads=place.threads
        )
        self.data_ready_at = datetime.now(UTC)
        self.model = resnet.build(spec, self.source.classes).to(place.device)
        if self.recipe.synchronized and place.world_size > 1:
            self.model = synchronize(self.model)
        self.model.to(memory_format=torch.channels_last)
        self.optimizer = Optimizer(self.model, self.recipe)
        self.saver = Saver(
            observer,
            work_path,
            spec,
            classes=self.source.classes,
            normaliser=self.source.normaliser,
        )
        self.tester = Tester(self.model, self.source, self.recipe, joined, place.device)
        self.cursor = Cursor()
        self.computed_in = precision.choose(self.recipe.precision, place.device)
        self.saved_at = 0
        self.stopped: StopReason | None = None
        self.has_launched = False
        self.sums_WS = torch.stack([tally.zeros(place.device)] * 2)

    def restore(self, saved: Checkpoint) -> None:
        self.cursor = saved.cursor
        self.saved_at = saved.cursor.iteration
        if saved.cursor.computed_in is not None:
            # A run does not change its precision where `auto` means another here.
            self.computed_in = precision.choose(
                Precision(saved.cursor.computed_in), self.place.device
            )
        self.model.load_state_dict(saved.weights)
        self.optimizer.restore(saved.momentum, saved.cursor.learning_rate)
        if len(saved.sums_RWS) == self.place.world_size:
            self.sums_WS.copy_(saved.sums_RWS[self.place.rank])
        elif self.place.rank == 0:
            self.sums_WS.copy_(saved.sums_RWS.sum(dim=0))
        self.observer.log(LogLevel.INFO, f"goes on from iteration {self.cursor.iteration}")

    def begin_from(self, weights: Path) -> None:
        take_over(self.model, weights, self.spec, self.source, self.ranks)
        self.observer.log(LogLevel.INFO, "begins with another job's weights")

    def run(self) -> Outcome:
        self._tell_facts()
        images_NCHW, _ = self._batch()
        engine = Engine(
            self.model,
            self.ranks.parallel(self.model, images_NCHW),
            self.optimizer,
            self.recipe,
            computed_in=self.computed_in,
            device=self.place.device,
            recorder=graphs.recorder_at(self.place),
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
            self._save(test_error=None, is_last=True)
            return None
        learning_rate = self.recipe.learning_rate_at(
            self.cursor.iteration, is_warm=self.cursor.is_warm, drops=self.cursor.drops
        )
        self.cursor = replace(self.cursor, learning_rate=learning_rate)
        return Batch(*self._batch(), learning_rate)

    def took(self, sums_S: Tensor) -> None:
        """The step was taken; sums_S are this rank's. Whatever is due now is done."""
        self.sums_WS += sums_S
        self.cursor = replace(
            self.cursor,
            iteration=self.cursor.iteration + 1,
            training_seconds=time.monotonic() - self.began,
        )
        if not self.has_launched:
            self._tell_launch()
        self._take_stock()

    @property
    def outcome(self) -> Outcome:
        return Outcome(
            self.stopped,
            self.cursor.iteration,
            Result(
                train_error=self.cursor.train_error,
                test_error=self.cursor.test_error,
                training_seconds=self.cursor.training_seconds,
            ),
        )

    def _tell_facts(self) -> None:
        self.facts = facts.gather(
            self.model,
            self.source,
            self.ranks,
            device=self.place.device,
            threads=self.place.threads,
            precision=self.computed_in,
        )
        self.observer.facts(self.facts)
        self.cursor = replace(self.cursor, computed_in=self.computed_in)

    def _start_clocks(self) -> None:
        self.began = time.monotonic() - self.cursor.training_seconds
        self.pace = Pace(self.recipe.batch_size, self.cursor.iteration)
        self.progress_told = time.monotonic()

    def _tell_launch(self) -> None:
        self.has_launched = True
        if self.place.device.type == "cuda":
            torch.cuda.synchronize(self.place.device)  # once, so that "done" means done
        self.observer.launched(
            Launch(data_ready_at=self.data_ready_at, first_step_at=datetime.now(UTC))
        )

    def _batch(self) -> tuple[Tensor, Tensor]:
        """This rank's share of the batch that is next."""
        start, stop = augment.share_of_batch(
            self.cursor.iteration,
            self.recipe.batch_size,
            rank=self.place.rank,
            world_size=self.place.world_size,
        )
        return self.source.batch(start, stop)

    def _take_stock(self) -> None:
        """After a step: whatever is due at this iteration."""
        iteration = self.cursor.iteration
        is_last = iteration == self.recipe.iterations
        is_evaluated = is_last or iteration % self.recipe.evaluate_every == 0
        if is_evaluated or iteration % report_every(self.recipe) == 0:
            self._report()
        if is_evaluated:
            self._evaluate()
        if is_last or iteration % self.recipe.checkpoint_every == 0:
            error = self.cursor.test_error if is_evaluated else None
            self._save(test_error=error, is_last=is_last)
        if time.monotonic() - self.progress_told > PROGRESS_SECONDS or is_last:
            self._tell_progress()

    def _report(self) -> None:
        """Means since the last report, over all ranks; the warm-up ends by their error."""
        loss, error = self._means_of(REPORT)
        done, learning_rate = self.cursor.iteration, self.cursor.learning_rate
        assert learning_rate is not None, "a step came before"
        self._tell(
            {
                "train/loss": loss,
                "train/error": error,
                "learning_rate": learning_rate,
                "images_per_second": self.pace.measure(done),
            }
        )
        if not math.isfinite(loss):
            raise Diverged(
                f"the training loss is {loss} at iteration {done}, "
                f"learning rate {learning_rate}; a smaller one may help"
            )
        until = self.recipe.warmup_until_error
        if until is not None and not self.cursor.is_warm and error < until:
            self.cursor = replace(self.cursor, is_warm=True)
            self.observer.log(
                LogLevel.INFO, f"warm-up ends at iteration {done}: training error {error:.1f} %"
            )

    def _means_of(self, window: int) -> tuple[float, float]:
        """Loss, and error in percent, of a window that ends here."""
        sums_S = self.ranks.sum(self.sums_WS[window].clone())
        self.sums_WS[window] = 0
        return tally.means(sums_S)

    def _evaluate(self) -> None:
        """With rank 0's batch statistics on all ranks, which share the images."""
        _, train_error = self._means_of(EVALUATION)
        with self.pace.paused():
            self.tester.settle_statistics()
            if self.source.validation_images > 0:
                loss, error = self.tester.means(of_validation=True)
                self._tell({"validation/loss": loss, "validation/error": error})
            loss, test_error = self.tester.means(of_validation=False)
        self._tell({"test/loss": loss, "test/error": test_error})
        if math.isnan(loss):
            raise Diverged(f"the test loss is {loss} at iteration {self.cursor.iteration}")
        self.cursor = replace(
            self.cursor,
            train_error=train_error,
            test_error=test_error,
            curve=(*self.cursor.curve, (self.cursor.iteration, test_error)),
        )
        if self.recipe.schedule is Schedule.PLATEAU:
            self._watch_for_a_plateau(test_error)

    def _watch_for_a_plateau(self, test_error: float) -> None:
        """Drops the learning rate after `patience` evaluations without a lower test error."""
        cursor = self.cursor
        if cursor.best_error is None or test_error < cursor.best_error:
            self.cursor = replace(cursor, best_error=test_error, waited=0)
        elif cursor.waited + 1 < self.recipe.patience:
            self.cursor = replace(cursor, waited=cursor.waited + 1)
        else:
            self.cursor = replace(cursor, waited=0, drops=cursor.drops + 1)
            self.observer.log(
                LogLevel.INFO,
                f"plateau at iteration {cursor.iteration}: the learning rate drops",
            )

    def _save(self, *, test_error: float | None, is_last: bool) -> None:
        """`test_error` None: these weights were not tested."""
        iteration = self.cursor.iteration
        if iteration == self.saved_at:
            return
        with self.pace.paused():
            sums_RWS = self.ranks.gather(self.sums_WS)
            self.saved_at = iteration
            if self.place.rank > 0:
                return
            saved = Checkpoint(
                cursor=self.cursor,
                weights=self.model.state_dict(),
                momentum=self.optimizer.momentum(),
                sums_RWS=sums_RWS,
            )
            export = self._exporter() if iteration == self.recipe.iterations else None
            self.saver.save(saved, test_error=test_error, is_last=is_last, export=export)

    def _exporter(self) -> Export:
        """Of the network as it is now, without the device."""
        (images_NCHW, *_), _ = next(self.source.views(of_validation=False, rank=0, world_size=1))
        height, width = images_NCHW.shape[2:]
        finished = Finished(self.spec, self.facts, self.cursor, (height, width))
        images_NCHW = images_NCHW[:EXPORTED_IMAGES].cpu().contiguous()
        return partial(export.write, export.plain_copy(self.model), images_NCHW, finished=finished)

    def _tell(self, values: Mapping[str, float]) -> None:
        self.observer.metrics(
            [
                MetricPoint(
                    series=series,
                    iteration=self.cursor.iteration,
                    value=value if math.isfinite(value) else None,
                )
                for series, value in values.items()
            ]
        )

    def _tell_progress(self) -> None:
        self.progress_told = time.monotonic()
        self.observer.progress(
            Progress(
                iteration=self.cursor.iteration,
                iterations=self.recipe.iterations,
                images_per_second=self.pace.images_per_second,
            )
        )
