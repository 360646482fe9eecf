"""The training loop. `Trainer.run` shows everything a run does, in its order.

A run that is stopped and resumed with the same number of workers equals the uninterrupted run bit
for bit on a CPU: every decision depends on the iteration and on sums that are saved in
checkpoints, none on time but the last step of a recipe with `max_seconds`. With another number of
workers it trains the same batches.

Shapes: N batch, C channels, H height, W width; S sums, R ranks.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from service.catalog.datasets import WEIGHTS_FOLDER
from service.catalog.recipes import LrSchedule, Precision, Recipe
from service.specs.job_spec import JobSpec, StartMode
from service.states import CheckpointPart, LogLevel, StopReason
from workers.training import (
    checkpoint,
    cuda_graphs,
    distributed,
    evaluation,
    export,
    precision,
    run_environment,
)
from workers.training.checkpoint import AsyncCheckpointWriter, Checkpoint, Exporter
from workers.training.data import sampling
from workers.training.data.data_source import DataSource, EvaluationSplit, open_data_source
from workers.training.device_context import DeviceContext
from workers.training.diagnostics import Diagnostics
from workers.training.distributed import RankGroup, StepLimit
from workers.training.errors import TrainingDiverged
from workers.training.evaluation import Evaluator, PendingEvaluation
from workers.training.metric_sums import TOP, Means, TrainingMetrics, Window
from workers.training.models import resnet, weight_init
from workers.training.models.step_randomness import StepRandomness
from workers.training.observers import LaunchTimes, NullObserver, Observer, Progress, StepTime
from workers.training.optimizer import Optimizer
from workers.training.sync_batch_norm import convert_sync_batch_norm
from workers.training.throughput import ThroughputMeter
from workers.training.train_state import TrainState
from workers.training.train_step import TrainStep

PROGRESS_SECONDS = 1.0


@dataclass(frozen=True)
class Outcome:
    """`stopped` is None if the run is complete. Errors in percent, of the last evaluation.

    `budget_end`: how the run reached a budget of its recipe, before its last iteration.

    `test_top5_error`: with more than five classes. `validation_error`: with held-out images. The
    last checkpoint may still be pending: see Observer.on_checkpoint_pending.
    """

    stopped: StopReason | None
    iteration: int
    train_error: float | None
    test_error: float | None
    training_seconds: float
    test_top5_error: float | None = None
    validation_error: float | None = None
    budget_end: str | None = None
    step_seconds: float | None = None


def train(
    spec: JobSpec,
    *,
    context: DeviceContext,
    data_dir: Path,
    work_dir: Path,
    observer: Observer,
    resume: Mapping[CheckpointPart, Path] | None = None,
    start_mode: StartMode | None = None,
) -> Outcome:
    """Trains the spec's network; with several ranks, in the default process group.

    Args:
        spec: the network, dataset and recipe.
        context: this rank, the number of ranks, and its device.
        data_dir: where datasets are stored.
        work_dir: where checkpoints are written.
        observer: receives reports; used on rank 0 only.
        resume: files of the checkpoint to start from, the same on every rank.
        start_mode: how to use another job's checkpoint; None: the checkpoint is this job's own.

    Raises TrainingError if the run cannot continue.
    """
    context.configure_process()
    observer = observer if context.rank == 0 else NullObserver()
    with distributed.join_ranks(rank=context.rank, world_size=context.world_size) as ranks:
        trainer = Trainer(spec, context, ranks, observer, data_dir=data_dir, work_dir=work_dir)
        with closing(trainer):
            if resume is not None and start_mode in {None, StartMode.CONTINUE}:
                is_same_job = start_mode is None
                saved = checkpoint.load(resume, spec=spec, is_same_job=is_same_job)
                # Another job has budgets of its own.
                end = saved.state.budget_end if is_same_job else None
                trainer.restore(replace(saved, state=replace(saved.state, budget_end=end)))
            elif resume is not None:
                trainer.init_weights(resume[CheckpointPart.WEIGHTS])
            elif spec.start_from is not None and spec.start_from.weights is not None:
                trainer.init_published_weights(data_dir / WEIGHTS_FOLDER / spec.start_from.weights)
            return trainer.run()


class Trainer:
    """One run on one rank: the loop, and below it what the loop calls."""

    def __init__(
        self,
        spec: JobSpec,
        context: DeviceContext,
        ranks: RankGroup,
        observer: Observer,
        *,
        data_dir: Path,
        work_dir: Path,
    ) -> None:
        self.spec, self.recipe = spec, spec.recipe
        self.context, self.ranks, self.observer = context, ranks, observer
        self.source: DataSource = open_data_source(
            spec,
            data_dir,
            device=context.device,
            threads=context.threads,
            log=observer.on_log,
        )
        self.data_ready_at = datetime.now(UTC)
        self._has_top5 = self.source.classes > TOP
        self.model = resnet.build_network(spec, self.source.classes).to(context.device)
        if self.recipe.sync_batch_norm and context.world_size > 1:
            self.model = convert_sync_batch_norm(self.model)
        self.model.to(memory_format=torch.channels_last)
        self.randomness = StepRandomness(self.model, seed=spec.seed, rank=context.rank)
        self.optimizer = Optimizer(self.model, self.recipe)
        self.evaluator = Evaluator(
            self.model,
            self.source,
            self.recipe,
            ranks,
            context.device,
            # Images that are read from files would keep the stream, and so training, waiting.
            stream=evaluation.make_stream(context) if self.source.is_resident else None,
        )
        self.writer = AsyncCheckpointWriter(
            observer,
            work_dir,
            spec,
            class_names=self.source.class_names,
            normalizer=self.source.normalizer,
        )
        self.metrics = TrainingMetrics(context.device)
        self.diagnostics = Diagnostics(
            self.model, context, ranks, is_resident=self.source.is_resident
        )
        self.state = TrainState()
        self.precision = precision.resolve_precision(self.recipe.precision, context.device)
        self._waits_for_evaluation = (
            self.recipe.schedule is LrSchedule.PLATEAU
            or self.recipe.has_budget
            or not self.evaluator.is_async
        )
        self._pending: _PendingEvaluation | None = None
        self._saved_iteration = 0
        self._stopped: StopReason | None = None

    def run(self) -> Outcome:
        """Trains from the current state to the recipe's last iteration, or until a stop."""
        step = self._prepare()
        while not self._is_last():
            agreed = self.ranks.agree(self.observer.stop_requested or self._find_step_limit())
            is_last_step = agreed is StepLimit.LAST_STEP
            self._stopped = agreed if isinstance(agreed, StopReason) else None
            if self._stopped is not None:
                self._finish_evaluation()
                self._save_checkpoint()
                break

            with self.diagnostics.loading():
                images_NCHW, labels_N = self._load_batch()
            learning_rate = self._learning_rate()
            with self.randomness.step(self.state.iteration):
                self.metrics.add(step(images_NCHW, labels_N, learning_rate))
            self._advance(learning_rate, is_last_step=is_last_step)

            if self._is_due(self.recipe.evaluate_every) or self._is_due(report_every(self.recipe)):
                self._finish_evaluation()
                self._report_metrics()
            if self._is_due(self.recipe.evaluate_every):
                self._start_evaluation()
            if self._is_due(self.recipe.checkpoint_every):
                self._save_checkpoint()
            # On a GPU the evaluation continues during the next steps, unless they depend on it.
            if self._is_last() or self._waits_for_evaluation:
                self._finish_evaluation()
            self._report_progress()
        self.ranks.close()
        return Outcome(
            self._stopped,
            self.state.iteration,
            self.state.train_error,
            self.state.test_error,
            self.state.training_seconds,
            test_top5_error=self.state.test_top5_error,
            validation_error=self.state.validation_error,
            budget_end=self.state.budget_end,
            step_seconds=self.state.step_seconds,
        )

    def restore(self, saved: Checkpoint) -> None:
        """Continues the run of that checkpoint."""
        self.state = saved.state
        if saved.state.precision is not None:
            # `auto` may mean another precision on this device; a run keeps its own.
            self.precision = precision.resolve_precision(
                Precision(saved.state.precision), self.context.device
            )
        self.model.load_state_dict(saved.weights)
        self.optimizer.restore(saved.momentum, saved.state.learning_rate)
        self.metrics.restore(saved.sums_RWS, self.ranks)
        self._saved_iteration = saved.state.iteration
        self.observer.on_log(LogLevel.INFO, f"resuming from iteration {self.state.iteration}")

    def init_weights(self, weights: Path) -> None:
        """Starts a new run with another job's weights, as the spec's `start_from` says."""
        weight_init.init_from_checkpoint(self.model, weights, self.spec, self.source, self.ranks)
        self.observer.on_log(LogLevel.INFO, "starting with the weights of another job")

    def init_published_weights(self, path: Path) -> None:
        """Starts a new run with the weights of a file."""
        weight_init.init_from_file(self.model, path, self.spec)
        self.observer.on_log(LogLevel.INFO, f"starting with the weights of {path.name}")

    def close(self) -> None:
        self.writer.close()
        self.source.close()

    # ---- in the order in which `run` calls them ----

    def _prepare(self) -> TrainStep:
        self.environment = run_environment.collect_environment(
            self.model, self.source, self.ranks, context=self.context, precision=self.precision
        )
        self.observer.on_start(self.environment)
        self.state = replace(self.state, precision=self.precision).with_workers(
            self.context.world_size
        )
        step = TrainStep(
            self.model,
            self.ranks.wrap_ddp(self.model, self._load_batch()[0]),
            self.optimizer,
            self.recipe,
            resolved_precision=self.precision,
            device=self.context.device,
            recorder=cuda_graphs.make_recorder(self.context),
            on_backward_end=self.diagnostics.end_backward,
            log=self.observer.on_log,
        )
        if self.state.loss_scale is not None:
            step.scaler.restore(self.state.loss_scale)
        self._scaler = step.scaler
        self._started_at = time.monotonic() - self.state.training_seconds
        self._progress_at = time.monotonic()
        self._throughput = ThroughputMeter(
            self.recipe.batch_size, self.state.iteration, step_seconds=self.state.step_seconds
        )
        self._has_stepped = False
        return step

    def _is_last(self) -> bool:
        return self.state.iteration >= self.recipe.iterations or self.state.budget_end is not None

    def _find_step_limit(self) -> StepLimit | None:
        """Whether rank 0 has trained for so long that the next step is the last."""
        limit = self.recipe.max_seconds
        is_over = limit is not None and self._throughput.step_seconds >= limit
        return StepLimit.LAST_STEP if is_over else None

    def _is_due(self, every: int) -> bool:
        return self._is_last() or self.state.iteration % every == 0

    def _load_batch(self) -> tuple[Tensor, Tensor]:
        start, stop = sampling.batch_range(
            self.state.iteration,
            self.recipe.batch_size,
            rank=self.context.rank,
            world_size=self.context.world_size,
        )
        return self.source.load_batch(start, stop)

    def _learning_rate(self) -> float:
        return self.recipe.learning_rate_at(
            self.state.iteration, is_warm=self.state.warmup_done, drops=self.state.lr_drops
        )

    def _advance(self, learning_rate: float, *, is_last_step: bool) -> None:
        self.state = replace(
            self.state,
            iteration=self.state.iteration + 1,
            learning_rate=learning_rate,
            training_seconds=time.monotonic() - self._started_at,
            step_seconds=self._throughput.step_seconds,
        )
        if is_last_step and self.state.iteration < self.recipe.iterations:
            self._end_by_budget(f"used up its max_seconds of {self.recipe.max_seconds:g}")
        self._step_time = StepTime(
            self.state.iteration, self.state.training_seconds, datetime.now(UTC)
        )
        if not self._has_stepped:
            self._has_stepped = True
            self.context.synchronize()
            self.observer.on_first_step(LaunchTimes(self.data_ready_at, datetime.now(UTC)))

    def _report_metrics(self) -> None:
        """Means since the last report, over all ranks. Their error may end the warm-up."""
        iteration, learning_rate = self.state.iteration, self.state.learning_rate
        assert learning_rate is not None, "a step was taken"
        means = self.metrics.take_means(Window.SINCE_REPORT, self.ranks)
        loss, error = means.loss, means.error
        images_per_second = self._throughput.measure(iteration)
        values = self._name_means("train", means) | {
            "gradient_norm": means.gradient_norm,
            "learning_rate": learning_rate,
            "images_per_second": images_per_second,
        }
        values |= self.diagnostics.measure(self.recipe.batch_size / images_per_second)
        self.observer.on_metrics(self._step_time, values)
        if not math.isfinite(loss):
            raise TrainingDiverged(
                f"training loss is {loss} at iteration {iteration} with learning rate "
                f"{learning_rate:g}; try a smaller one"
            )
        threshold = self.recipe.warmup_until_error
        if threshold is not None and not self.state.warmup_done and error < threshold:
            self.state = replace(self.state, warmup_done=True)
            self.observer.on_log(
                LogLevel.INFO,
                f"warm-up ends at iteration {iteration}: training error is {error:.1f} %",
            )

    def _start_evaluation(self) -> None:
        train = self.metrics.take_means(Window.SINCE_EVALUATION, self.ranks)
        with self._pause_throughput():
            keeps_predictions = self._is_last() or self.recipe.target_error is not None
            started = self.evaluator.start(keeps_predictions=keeps_predictions)
        self._pending = _PendingEvaluation(started, self._step_time, train.error)

    def _finish_evaluation(self) -> None:
        """Waits for the pending evaluation, if any, and writes the checkpoint of its weights."""
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        iteration = pending.step.iteration
        # An asynchronous evaluation costs training time only where it is waited for.
        with nullcontext() if self.evaluator.is_async else self._pause_throughput():
            results = pending.evaluation.wait()
            predictions = pending.evaluation.gather_predictions()
        for split, means in results.items():
            self.observer.on_metrics(pending.step, self._name_means(split, means))
        test, validation = results[EvaluationSplit.TEST], results.get(EvaluationSplit.VALIDATION)
        if math.isnan(test.loss):
            raise TrainingDiverged(f"test loss is {test.loss} at iteration {iteration}")
        validation_error = None if validation is None else validation.error
        selection_error = self.recipe.selection_error(
            test_error=test.error, validation_error=validation_error
        )
        is_plateau = self.recipe.schedule is LrSchedule.PLATEAU
        record = partial(
            TrainState.with_evaluation,
            iteration=iteration,
            train_error=pending.train_error,
            test_error=test.error,
            test_top5_error=test.top5_error if self._has_top5 else None,
            validation_error=validation_error,
            selection_error=selection_error,
            patience=self.recipe.patience if is_plateau else None,
        )
        drops, self.state = self.state.lr_drops, record(self.state)
        if self.state.lr_drops > drops:
            message = f"plateau at iteration {iteration}: the learning rate drops"
            self.observer.on_log(LogLevel.INFO, message)
        if self._reaches_target(selection_error) and not self._is_last():
            reached = f"target_error of {self.recipe.target_error:g} % with {selection_error:g} %"
            self._end_by_budget(f"reached its {reached}")
            if pending.checkpoint is None:
                pending.checkpoint = self._copy_checkpoint()
        if pending.checkpoint is not None:
            state = replace(record(pending.checkpoint.state), budget_end=self.state.budget_end)
            evaluated = replace(pending.checkpoint, state=state)
            self._write_checkpoint(evaluated, test.error, selection_error, predictions)

    def _save_checkpoint(self) -> None:
        """Copies the state; writes it once its evaluation, if any, is complete."""
        iteration = self.state.iteration
        if iteration == self._saved_iteration:
            return
        if self._pending is not None and self._pending.step.iteration < iteration:
            self._finish_evaluation()
        copied = self._copy_checkpoint()
        if copied is None:
            return
        if self._pending is None:
            self._write_checkpoint(copied, test_error=None, selection_error=None)
        else:
            self._pending.checkpoint = copied

    def _copy_checkpoint(self) -> Checkpoint | None:
        """Of the network as it is now; None but on rank 0. All ranks call it."""
        with self._pause_throughput():
            sums_RWS = self.ranks.all_gather(self.metrics.sums_WS)
            self._check_finite(sums_RWS)
            self._saved_iteration = self.state.iteration
            if self.context.rank > 0:
                return None
            self.state = replace(self.state, loss_scale=self._scaler.state())
            self.writer.wait()  # memory is planned for one copy, not for two
            return Checkpoint(
                self.state, self.model.state_dict(), self.optimizer.momentum(), sums_RWS
            ).copy_to_cpu()

    def _reaches_target(self, selection_error: float | None) -> bool:
        target = self.recipe.target_error
        if target is None:
            return False
        assert selection_error is not None, "validated with the recipe"
        return selection_error <= target

    def _end_by_budget(self, end: str) -> None:
        """Makes the last step the last of the run: it is reported, evaluated, saved, exported."""
        seconds = self.state.step_seconds
        end = f"{end}, after {seconds:.1f} s at iteration {self.state.iteration}"
        self.state = replace(self.state, budget_end=end)
        self.observer.on_log(LogLevel.INFO, f"the training ends: it has {end}")

    def _name_means(self, split: str, means: Means) -> dict[str, float]:
        """By the names of their series."""
        named = {f"{split}/loss": means.loss, f"{split}/error": means.error}
        return named | ({f"{split}/top5_error": means.top5_error} if self._has_top5 else {})

    def _check_finite(self, sums_RWS: Tensor) -> None:
        """TrainingDiverged before a checkpoint replaces the last good one. Equal on all ranks."""
        weights = [parameter.detach().isfinite().all() for parameter in self.model.parameters()]
        if not bool(sums_RWS.isfinite().all() & torch.stack(weights).all()):
            raise TrainingDiverged(
                f"the training loss or the weights are not finite at iteration "
                f"{self.state.iteration} with learning rate {self.state.learning_rate or 0:g}; "
                "try a smaller one"
            )

    def _write_checkpoint(
        self,
        copied: Checkpoint,
        test_error: float | None,
        selection_error: float | None,
        predictions: dict[str, Tensor] | None = None,
    ) -> None:
        iteration = copied.state.iteration
        has_ended = copied.state.budget_end is not None
        is_complete = has_ended or iteration == self.recipe.iterations
        is_final = is_complete or (self._stopped is not None and iteration == self.state.iteration)
        with self._pause_throughput():
            self.writer.write(
                copied,
                test_error=test_error,
                selection_error=selection_error,
                is_last=is_final,
                exporter=self._make_exporter(copied.state, predictions) if is_complete else None,
            )

    def _make_exporter(self, state: TrainState, predictions: dict[str, Tensor] | None) -> Exporter:
        """Exports the network as it is now, without using the device."""
        batches = self.source.load_evaluation_batches(EvaluationSplit.TEST, rank=0, world_size=1)
        (images_NCHW, *_), _ = next(iter(batches))
        run = export.FinishedRun(
            self.spec,
            self.environment,
            state,
            class_names=self.source.class_names,
            normalizer=self.source.normalizer.to(torch.device("cpu")),
            predictions=predictions,
        )
        return export.make_exporter(self.model, images_NCHW, run, self.observer.on_log)

    def _report_progress(self) -> None:
        if time.monotonic() - self._progress_at <= PROGRESS_SECONDS and not self._is_last():
            return
        self._progress_at = time.monotonic()
        self.observer.on_progress(
            Progress(
                self.state.iteration,
                self.recipe.iterations,
                self._throughput.images_per_second,
            )
        )

    @contextmanager
    def _pause_throughput(self) -> Iterator[None]:
        """Excludes the time inside from the throughput, once started steps are complete."""
        self.context.synchronize()
        with self._throughput.pause():
            yield


@dataclass
class _PendingEvaluation:
    """An evaluation of the weights after `step`; `checkpoint` holds the same weights."""

    evaluation: PendingEvaluation
    step: StepTime
    train_error: float
    checkpoint: Checkpoint | None = None


def report_every(recipe: Recipe) -> int:
    """Iterations between two reports: about 500 reports per run, at most every fifth iteration.

    A divisor of evaluate_every if one is near. A resumed run reports at the same iterations.
    """
    target = max(5, recipe.iterations // 500)
    divisors = [every for every in range(1, target + 1) if recipe.evaluate_every % every == 0]
    return divisors[-1] if 2 * divisors[-1] >= target else target
