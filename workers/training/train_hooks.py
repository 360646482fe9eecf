"""Taking stock between two steps: what is due is measured, tested, saved and told.

What changes the run hangs on the iteration and on sums that lie in the checkpoint, not on time.

Shapes: R ranks, W windows, S sums; of images N batch, C channels, H height, W width.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from service.catalog.recipes import LrSchedule, Recipe
from service.specs.job_spec import JobSpec
from service.specs.protocol import MetricPoint, Progress, RunEnvironment
from service.states import LogLevel
from workers.training import evaluation, export, metric_sums
from workers.training.async_checkpoint import AsyncCheckpointWriter, Export
from workers.training.checkpoint import Checkpoint, TrainProgress
from workers.training.data.data_source import DataSource
from workers.training.device_context import DeviceContext
from workers.training.distributed import RankGroup
from workers.training.errors import TrainingDiverged
from workers.training.evaluation import Evaluator, PendingEvaluation
from workers.training.export import FinishedRun
from workers.training.observers import Observer
from workers.training.optimizer import Optimizer
from workers.training.throughput import ThroughputMeter

# Of the progress that the observer is told beside the metrics.
PROGRESS_SECONDS = 1.0

# On so many test images an exported network is compared with the network itself.
EXPORTED_IMAGES = 16

# Rows of the sums under way: since the last report of metrics, since the last evaluation.
REPORT, EVALUATION = 0, 1


def report_every(recipe: Recipe) -> int:
    """Iterations between two reports of metrics: some hundred over a run, or every fifth.

    A divisor of evaluate_every where there is one near; a resumed run reports at the same ones.
    """
    wanted = max(5, recipe.iterations // 500)
    divisors = [step for step in range(1, wanted + 1) if recipe.evaluate_every % step == 0]
    return divisors[-1] if 2 * divisors[-1] >= wanted else wanted


@dataclass
class _UnderWay:
    """A test of the weights at `iteration`. `checkpoint` is theirs, and waits for it."""

    test: PendingEvaluation
    iteration: int
    train_error: float
    checkpoint: Checkpoint | None = None


class TrainHooks:
    """A run's. `begin` comes before the first step; after each, `count` and then `take`.

    Checkpoints are written to folders under `work_path`.
    """

    def __init__(
        self,
        spec: JobSpec,
        place: DeviceContext,
        ranks: RankGroup,
        observer: Observer,
        *,
        source: DataSource,
        model: nn.Module,
        optimizer: Optimizer,
        work_path: Path,
    ) -> None:
        self._spec, self._recipe, self._place = spec, spec.recipe, place
        self._ranks, self._observer, self._source = ranks, observer, source
        self._model, self._optimizer = model, optimizer
        self._saver = AsyncCheckpointWriter(
            observer, work_path, spec, classes=source.classes, normaliser=source.normaliser
        )
        # Who waits for photographs waits in the training's turn.
        stream = evaluation.make_stream(place) if source.is_resident else None
        self._tester = Evaluator(model, source, spec.recipe, ranks, place.device, stream=stream)
        self._under_way: _UnderWay | None = None
        self._saved_at = 0
        self._is_stopped = False
        self._cursor = TrainProgress()
        self._sums_WS = torch.stack([metric_sums.zeros(place.device)] * 2)

    def restore(self, saved: Checkpoint) -> None:
        self._saved_at = saved.cursor.iteration
        if len(saved.sums_RWS) == self._place.world_size:
            self._sums_WS.copy_(saved.sums_RWS[self._place.rank])
        elif self._place.rank == 0:
            self._sums_WS.copy_(saved.sums_RWS.sum(dim=0))

    def begin(self, environment: RunEnvironment, iteration: int) -> None:
        self._environment = environment
        self._pace = ThroughputMeter(self._recipe.batch_size, iteration)
        self._progress_told = time.monotonic()

    def count(self, sums_S: Tensor) -> None:
        """Of a step of this rank."""
        self._sums_WS += sums_S

    def take(self, cursor: TrainProgress) -> TrainProgress:
        """Does what is due at the cursor's iteration, and returns what is known then."""
        self._cursor = cursor
        iteration = cursor.iteration
        is_last = iteration == self._recipe.iterations
        is_tested = is_last or iteration % self._recipe.evaluate_every == 0
        if is_tested or iteration % report_every(self._recipe) == 0:
            self._hear_of_the_test()
            self._report()
        if is_tested:
            self._test()
        if is_last or iteration % self._recipe.checkpoint_every == 0:
            self._save()
        # What follows may hang on its error.
        if is_last or not self._tester.is_beside or self._recipe.schedule is LrSchedule.PLATEAU:
            self._hear_of_the_test()
        if time.monotonic() - self._progress_told > PROGRESS_SECONDS or is_last:
            self._tell_progress()
        return self._cursor

    def stop(self, cursor: TrainProgress) -> TrainProgress:
        """The run ends here, before its time."""
        self._cursor = cursor
        self._is_stopped = True
        self._hear_of_the_test()
        self._save()
        return self._cursor

    def close(self) -> None:
        self._saver.close()
        self._source.close()

    def _report(self) -> None:
        """Means since the last report, over all ranks; the warm-up ends by their error."""
        loss, error = self._means_of(REPORT)
        done, learning_rate = self._cursor.iteration, self._cursor.learning_rate
        assert learning_rate is not None, "a step came before"
        self._tell(
            {
                "train/loss": loss,
                "train/error": error,
                "learning_rate": learning_rate,
                "images_per_second": self._pace.measure(done),
            },
            done,
        )
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"the training loss is {loss} at iteration {done}, "
                f"learning rate {learning_rate}; a smaller one may help"
            )
        until = self._recipe.warmup_until_error
        if until is not None and not self._cursor.is_warm and error < until:
            self._cursor = replace(self._cursor, is_warm=True)
            self._observer.log(
                LogLevel.INFO, f"warm-up ends at iteration {done}: training error {error:.1f} %"
            )

    def _means_of(self, window: int) -> tuple[float, float]:
        """Loss, and error in percent, of a window that ends here."""
        sums_S = self._ranks.sum(self._sums_WS[window].clone())
        self._sums_WS[window] = 0
        return metric_sums.means(sums_S)

    def _test(self) -> None:
        _, train_error = self._means_of(EVALUATION)
        with self._paused():
            self._under_way = _UnderWay(self._tester.begin(), self._cursor.iteration, train_error)

    def _hear_of_the_test(self) -> None:
        """Waits for the test that is under way, if one is, and gives its checkpoint on."""
        if self._under_way is None:
            return
        under_way, self._under_way = self._under_way, None
        iteration = under_way.iteration
        # Beside it the training goes on, and so does its time.
        with nullcontext() if self._tester.is_beside else self._paused():
            results = under_way.test.results()
        for images, (loss, error) in results.items():
            self._tell({f"{images}/loss": loss, f"{images}/error": error}, iteration)
        loss, error = results["test"]
        if math.isnan(loss):
            raise TrainingDiverged(f"the test loss is {loss} at iteration {iteration}")
        learn = partial(
            TrainProgress.tested,
            iteration=iteration,
            train_error=under_way.train_error,
            test_error=error,
            patience=self._recipe.patience if self._recipe.schedule is LrSchedule.PLATEAU else None,
        )
        drops, self._cursor = self._cursor.drops, learn(self._cursor)
        if self._cursor.drops > drops:
            self._observer.log(
                LogLevel.INFO, f"plateau at iteration {iteration}: the learning rate drops"
            )
        if under_way.checkpoint is not None:
            cursor = learn(under_way.checkpoint.cursor)
            self._write(replace(under_way.checkpoint, cursor=cursor), error)

    def _save(self) -> None:
        """These weights; written as soon as they are tested, if they are."""
        iteration = self._cursor.iteration
        if iteration == self._saved_at:
            return
        if self._under_way is not None and self._under_way.iteration < iteration:
            self._hear_of_the_test()
        with self._paused():
            sums_RWS = self._ranks.gather(self._sums_WS)
            self._saved_at = iteration
            if self._place.rank > 0:
                return
            self._saver.wait()  # there is memory for one copy, maybe not for two
            checkpoint = Checkpoint(
                cursor=self._cursor,
                weights=self._model.state_dict(),
                momentum=self._optimizer.momentum(),
                sums_RWS=sums_RWS,
            ).copied()
        if self._under_way is None:
            self._write(checkpoint, test_error=None)
        else:
            self._under_way.checkpoint = checkpoint

    def _write(self, checkpoint: Checkpoint, test_error: float | None) -> None:
        iteration = checkpoint.cursor.iteration
        is_done = iteration == self._recipe.iterations
        with self._paused():
            self._saver.save(
                checkpoint,
                test_error=test_error,
                is_last=is_done or (self._is_stopped and iteration == self._cursor.iteration),
                export=self._exporter(checkpoint.cursor) if is_done else None,
            )

    def _exporter(self, cursor: TrainProgress) -> Export:
        """Of the network as it is now, without the device."""
        (images_NCHW, *_), _ = next(self._source.views(of_validation=False, rank=0, world_size=1))
        height, width = images_NCHW.shape[2:]
        finished = FinishedRun(self._spec, self._environment, cursor, (height, width))
        images_NCHW = images_NCHW[:EXPORTED_IMAGES].cpu().contiguous()
        return partial(
            export.write_exports, export.export_copy(self._model), images_NCHW, finished=finished
        )

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Time in it is not the steps', once those that were started are done."""
        self._place.wait()
        with self._pace.paused():
            yield

    def _tell(self, values: Mapping[str, float], iteration: int) -> None:
        self._observer.metrics(
            [
                MetricPoint(
                    series=series,
                    iteration=iteration,
                    value=value if math.isfinite(value) else None,
                )
                for series, value in values.items()
            ]
        )

    def _tell_progress(self) -> None:
        self._progress_told = time.monotonic()
        self._observer.progress(
            Progress(
                iteration=self._cursor.iteration,
                iterations=self._recipe.iterations,
                images_per_second=self._pace.images_per_second,
            )
        )
