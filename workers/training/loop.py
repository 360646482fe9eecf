"""The training loop: plain DDP, one optimizer step after another, every number to the observer.

A run that was stopped and resumed with as many workers is the run that was not, bit for bit on a
CPU: every decision hangs on the iteration and on sums that lie in the checkpoint, none on time.

Shapes: N batch, C channels, H height, W width, K classes; R ranks, W windows, S sums.
"""

import math
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD

from service.recipes import Recipe
from service.reports import (
    CheckpointNote,
    Facts,
    Launch,
    LogLevel,
    MetricPoint,
    Part,
    Progress,
    Result,
)
from service.spec import JobSpec
from service.states import StopReason
from workers.training import augment, checkpoint, data, ranks, resnet
from workers.training.augment import Augmenter
from workers.training.checkpoint import Checkpoint, Cursor
from workers.training.faults import Diverged
from workers.training.ranks import Ranks

# Of the progress that the observer is told beside the metrics.
PROGRESS_SECONDS = 1.0

# Rows of the sums under way: since the last report of metrics, since the last evaluation.
REPORT, EVALUATION = 0, 1


class Observer(Protocol):
    """Whom the loop tells; called by rank 0 only, from the thread that trains."""

    def facts(self, facts: Facts) -> None: ...
    def launched(self, launch: Launch) -> None: ...
    def progress(self, progress: Progress) -> None: ...
    def metrics(self, points: list[MetricPoint]) -> None: ...
    def log(self, level: LogLevel, message: str) -> None: ...

    def checkpoint(self, note: CheckpointNote, files: dict[Part, Path]) -> None:
        """Takes over the files, which lie in a folder of their own."""

    @property
    def stop(self) -> StopReason | None:
        """Read between any two steps: it must not wait for anything."""


@dataclass(frozen=True)
class Place:
    """Where this process stands: rank of world_size, its device, its CPU threads."""

    rank: int
    world_size: int
    device: torch.device
    threads: int


@dataclass(frozen=True)
class Outcome:
    """`stopped` None: the training is done. The result's errors are of the last evaluation."""

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
) -> Outcome:
    """Trains the spec's network; with world_size > 1 in the default process group.

    Checkpoints are written to folders under `work_path`. `resume`: weights and state of the
    checkpoint to go on from, given to every rank. TrainingFault where it cannot go on.
    """
    torch.set_num_threads(place.threads)
    with ranks.join(rank=place.rank, world_size=place.world_size) as joined:
        heard = observer if place.rank == 0 else _Silence()
        training = _Training(spec, place, joined, heard, data_path=data_path, work_path=work_path)
        if resume is not None:
            training.restore(checkpoint.load(resume, spec=spec))
        return training.run()


def report_every(recipe: Recipe) -> int:
    """Iterations between two reports of metrics: some hundred over a run, or every fifth.

    A divisor of evaluate_every where there is one near; a resumed run reports at the same ones.
    """
    wanted = max(5, recipe.iterations // 500)
    divisors = [step for step in range(1, wanted + 1) if recipe.evaluate_every % step == 0]
    return divisors[-1] if 2 * divisors[-1] >= wanted else wanted


class _Training:
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
        self.ranks, self.observer, self.work_path = joined, observer, work_path
        self.images = data.read(spec.dataset, data_path, family=spec.family)
        self.data_ready_at = datetime.now(UTC)
        self.mean_HWC = augment.mean_image(self.images.train).to(place.device)
        self.augmenter = Augmenter(self.images, seed=spec.seed, device=place.device)
        self.model = resnet.build(spec, self.images.classes).to(place.device)
        self.model.to(memory_format=torch.channels_last)  # +23 % on CPUs, ~30 % on GPUs
        self.optimizer = _optimizer(self.model, self.recipe)
        self.cursor = Cursor(
            iteration=0, is_warm=False, train_error=None, test_error=None, training_seconds=0.0
        )
        self.saved_at = 0
        self.has_launched = False
        # float64: sums of a million losses, and whole numbers of images, must not round.
        self.sums_WS = torch.zeros(2, 3, dtype=torch.float64, device=place.device)

    def restore(self, saved: Checkpoint) -> None:
        self.cursor = saved.cursor
        self.saved_at = saved.cursor.iteration
        self.model.load_state_dict(saved.weights)
        for name, parameter in self.model.named_parameters():
            if name in saved.momentum:
                momentum = torch.empty_like(parameter).copy_(saved.momentum[name])
                self.optimizer.state[parameter] = {"momentum_buffer": momentum}
        if len(saved.sums_RWS) == self.place.world_size:
            self.sums_WS.copy_(saved.sums_RWS[self.place.rank])
        elif self.place.rank == 0:
            self.sums_WS.copy_(saved.sums_RWS.sum(dim=0))
        self.observer.log(LogLevel.INFO, f"goes on from iteration {self.cursor.iteration}")

    def run(self) -> Outcome:
        self.observer.facts(self._facts())
        images_NCHW, _ = self._batch()
        self.parallel = self.ranks.parallel(self.model, images_NCHW)
        self.began = time.monotonic() - self.cursor.training_seconds
        self._start_clock()
        stopped = None
        while self.cursor.iteration < self.recipe.iterations:
            stopped = self.ranks.agree(self.observer.stop)
            if stopped is not None:
                self.observer.log(LogLevel.INFO, f"stops at iteration {self.cursor.iteration}")
                self._save(test_error=None)
                break
            self._step()
            if not self.has_launched:
                self._tell_launch()
            self._take_stock()
        self.ranks.part_ways()
        return Outcome(
            stopped,
            self.cursor.iteration,
            Result(
                train_error=self.cursor.train_error,
                test_error=self.cursor.test_error,
                training_seconds=self.cursor.training_seconds,
            ),
        )

    def _facts(self) -> Facts:
        device = self.place.device
        is_gpu = device.type == "cuda"
        return Facts(
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            classes=self.images.classes,
            train_images=len(self.images.train),
            test_images=len(self.images.test),
            device=torch.cuda.get_device_name(device) if is_gpu else device.type,
            num_workers=self.place.world_size,
            host=socket.gethostname(),
            pids=self.ranks.list_of(os.getpid()),
            versions=checkpoint.versions(),
        )

    def _start_clock(self) -> None:
        """Of images_per_second, which counts training only."""
        self.clock = (self.cursor.iteration, time.monotonic())
        self.images_per_second: float | None = None
        self.progress_told = time.monotonic()

    def _step(self) -> None:
        images_NCHW, labels_N = self._batch()
        self.learning_rate = self.recipe.learning_rate_at(
            self.cursor.iteration, is_warm=self.cursor.is_warm
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate
        logits_NK = self.parallel(images_NCHW)
        loss = functional.cross_entropy(logits_NK, labels_N)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

        self.sums_WS += _sums(logits_NK.detach(), labels_N, loss.detach() * len(labels_N))
        self.cursor = replace(
            self.cursor,
            iteration=self.cursor.iteration + 1,
            training_seconds=time.monotonic() - self.began,
        )

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
        return self.augmenter.batch(start, stop)

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
            self._save(test_error=self.cursor.test_error if is_evaluated else None)
        if time.monotonic() - self.progress_told > PROGRESS_SECONDS or is_last:
            self._tell_progress()

    def _report(self) -> None:
        """Means since the last report, over all ranks; the warm-up ends by their error."""
        loss, error = self._means_of(REPORT)
        done, now = self.cursor.iteration, time.monotonic()
        since, at = self.clock
        self.images_per_second = (done - since) * self.recipe.batch_size / (now - at)
        self.clock = (done, now)
        self._tell(
            {
                "train/loss": loss,
                "train/error": error,
                "learning_rate": self.learning_rate,
                "images_per_second": self.images_per_second,
            }
        )
        if not math.isfinite(loss):
            raise Diverged(
                f"the training loss is {loss} at iteration {done}, "
                f"learning rate {self.learning_rate}; a smaller one may help"
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
        return _means(sums_S)

    @torch.no_grad()
    def _evaluate(self) -> None:
        """On the test set: the uncropped view once, by rank 0's batch statistics on all ranks."""
        _, train_error = self._means_of(EVALUATION)
        began = time.monotonic()
        self.ranks.share_statistics(self.model)
        self.model.eval()
        sums_S = torch.zeros_like(self.sums_WS[EVALUATION])
        for rows_N in self._test_batches():
            images_NHWC = self.images.test.images_NHWC[rows_N].to(self.place.device)
            labels_N = self.images.test.labels_N[rows_N].to(self.place.device)
            logits_NK = self.model(augment.preprocess(images_NHWC, self.mean_HWC))
            losses = functional.cross_entropy(logits_NK, labels_N, reduction="sum")
            sums_S += _sums(logits_NK, labels_N, losses)
        self.model.train()
        loss, test_error = _means(self.ranks.sum(sums_S))
        self._tell({"test/loss": loss, "test/error": test_error})
        if math.isnan(loss):
            raise Diverged(f"the test loss is {loss} at iteration {self.cursor.iteration}")
        self.cursor = replace(self.cursor, train_error=train_error, test_error=test_error)
        since, at = self.clock
        self.clock = (since, at + time.monotonic() - began)

    def _test_batches(self) -> list[slice]:
        """This rank's share of the test images; without gradients, a batch may be bigger."""
        share = math.ceil(len(self.images.test) / self.place.world_size)
        first = min(self.place.rank * share, len(self.images.test))
        stop = min(first + share, len(self.images.test))
        step = 4 * self.recipe.batch_size // self.place.world_size
        return [slice(start, min(start + step, stop)) for start in range(first, stop, step)]

    def _save(self, *, test_error: float | None) -> None:
        """`test_error` None: these weights were not tested."""
        iteration = self.cursor.iteration
        if iteration == self.saved_at:
            return
        began = time.monotonic()
        sums_RWS = self.ranks.gather(self.sums_WS)
        self.saved_at = iteration
        if self.place.rank > 0:
            return
        saved = Checkpoint(
            cursor=self.cursor,
            weights=self.model.state_dict(),
            momentum={
                name: self.optimizer.state[parameter]["momentum_buffer"]
                for name, parameter in self.model.named_parameters()
            },
            sums_RWS=sums_RWS,
        )
        files = checkpoint.save(
            saved,
            checkpoint.folder_of(iteration, self.work_path),
            spec=self.spec,
            classes=self.images.classes,
            mean_HWC=self.mean_HWC,
        )
        note = CheckpointNote(
            iteration=iteration,
            test_error=test_error,
            train_error=self.cursor.train_error,
            parts=checkpoint.digest(files),
        )
        self.observer.checkpoint(note, files)
        since, at = self.clock
        self.clock = (since, at + time.monotonic() - began)

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
                images_per_second=self.images_per_second,
            )
        )


def _optimizer(model: nn.Module, recipe: Recipe) -> SGD:
    """Weights of convolutions and of the classifier decay, batch normalisation and biases do not.

    So did the paper's own code; fb.resnet.torch names decaying everything as its difference.
    """
    parameters = list(model.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in parameters if parameter.dim() > 1]},
        {"params": [each for each in parameters if each.dim() == 1], "weight_decay": 0.0},
    ]
    return SGD(
        groups,
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        foreach=True,
    )


def _sums(logits_NK: Tensor, labels_N: Tensor, loss: Tensor) -> Tensor:
    """sums_S: the loss, which is a sum over the images, the images that are wrong, and all."""
    wrong = (logits_NK.argmax(dim=1) != labels_N).sum()
    images = torch.full_like(wrong, len(labels_N))
    return torch.stack([loss.double(), wrong.double(), images.double()])


def _means(sums_S: Tensor) -> tuple[float, float]:
    """Loss, and error in percent, of an image."""
    loss, wrong, images = sums_S.tolist()
    return loss / images, 100 * wrong / images


class _Silence:
    """The observer of the ranks that nobody hears."""

    stop: StopReason | None = None

    def facts(self, facts: Facts) -> None: ...
    def launched(self, launch: Launch) -> None: ...
    def progress(self, progress: Progress) -> None: ...
    def metrics(self, points: list[MetricPoint]) -> None: ...
    def log(self, level: LogLevel, message: str) -> None: ...
    def checkpoint(self, note: CheckpointNote, files: dict[Part, Path]) -> None: ...
