"""What a training run reports, and the interface that receives it."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from service.catalog.datasets import ChecksumScope
from service.states import CheckpointPart, LogLevel, StopReason

LogFunction = Callable[[LogLevel, str], None]
"""Receives a line of the job's log."""


def ignore_log(level: LogLevel, message: str) -> None:
    """The default log function."""


@dataclass(frozen=True)
class DataChecksum:
    """`scope` says what the SHA-256 of a dataset covers."""

    sha256: str
    scope: ChecksumScope


@dataclass(frozen=True)
class RunEnvironment:
    """What a run trains on; known once all ranks have loaded their data.

    `numerics`: choices that affect speed and rounding but not the recipe, such as precision.
    """

    parameters: int
    classes: int
    train_images: int
    test_images: int
    device: str
    num_workers: int
    host: str
    pids: list[int]
    versions: dict[str, str]
    numerics: dict[str, str]
    data_checksum: DataChecksum | None = None


@dataclass(frozen=True)
class LaunchTimes:
    """When rank 0 had its images in memory, and when its first optimizer step was complete."""

    data_ready_at: datetime
    first_step_at: datetime


@dataclass(frozen=True)
class StepTime:
    """When a step was complete: training seconds over all attempts, and the time, UTC."""

    iteration: int
    seconds: float
    at: datetime


@dataclass(frozen=True)
class Progress:
    """`images_per_second`: of all workers together; None before the first measurement."""

    iteration: int
    iterations: int
    images_per_second: float | None


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint whose files are complete, in a directory of their own.

    Errors in percent. `test_error` is None if the weights of this iteration were not evaluated,
    `selection_error` also if the recipe selects the last checkpoint.
    """

    iteration: int
    test_error: float | None
    selection_error: float | None
    train_error: float | None
    files: Mapping[CheckpointPart, Path]


class Observer(Protocol):
    """Called on rank 0, from the training thread; `on_checkpoint` from the writer's thread."""

    def on_start(self, environment: RunEnvironment) -> None: ...
    def on_first_step(self, times: LaunchTimes) -> None: ...
    def on_progress(self, progress: Progress) -> None: ...

    def on_metrics(self, step: StepTime, values: Mapping[str, float]) -> None:
        """Values by series name, measured after that step; a diverged loss is not finite."""

    def on_log(self, level: LogLevel, message: str) -> None: ...

    def on_checkpoint_pending(self, written: Future[None]) -> None:
        """A checkpoint is being written. `on_checkpoint` is called before `written` is done.

        The last checkpoint may still be pending when training has returned and the device is
        free. `written.result()` waits for it and raises the error that prevented it.
        """

    def on_checkpoint(self, saved: SavedCheckpoint) -> None:
        """The observer owns the files from now on."""

    @property
    def stop_requested(self) -> StopReason | None:
        """Read before every step: must return at once."""


class NullObserver:
    """Ignores everything, but waits for checkpoints. Used on ranks other than 0."""

    @property
    def stop_requested(self) -> StopReason | None:
        return None

    def on_start(self, environment: RunEnvironment) -> None: ...
    def on_first_step(self, times: LaunchTimes) -> None: ...
    def on_progress(self, progress: Progress) -> None: ...
    def on_metrics(self, step: StepTime, values: Mapping[str, float]) -> None: ...
    def on_log(self, level: LogLevel, message: str) -> None: ...
    def on_checkpoint(self, saved: SavedCheckpoint) -> None: ...

    def on_checkpoint_pending(self, written: Future[None]) -> None:
        written.result()
