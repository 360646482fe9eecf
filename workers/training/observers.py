"""Whom the training loop tells."""

from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

from service.specs.protocol import (
    CheckpointManifest,
    LaunchTimes,
    MetricPoint,
    Progress,
    RunEnvironment,
)
from service.states import CheckpointPart, LogLevel, StopReason


class Observer(Protocol):
    """Called by rank 0 only, from the thread that trains; `checkpoint` from the one that saves."""

    def environment(self, environment: RunEnvironment) -> None: ...
    def launched(self, launch: LaunchTimes) -> None: ...
    def progress(self, progress: Progress) -> None: ...
    def metrics(self, points: list[MetricPoint]) -> None: ...
    def log(self, level: LogLevel, message: str) -> None: ...

    def saving(self, saved: Future[None]) -> None:
        """A checkpoint is on its way to the disk; it was told before `saved` is done.

        The last is still on its way when the training is over: its device is free by then. Who
        needs the files must wait for it, and hears then what kept them from being written.
        """

    def checkpoint(self, note: CheckpointManifest, files: dict[CheckpointPart, Path]) -> None:
        """Takes over the files, which lie in a folder of their own."""

    @property
    def stop(self) -> StopReason | None:
        """Read between any two steps: it must not wait for anything."""


class NullObserver:
    """An observer that nobody hears: of the ranks that have no voice. It waits for files."""

    @property
    def stop(self) -> StopReason | None:
        return None

    def environment(self, environment: RunEnvironment) -> None: ...
    def launched(self, launch: LaunchTimes) -> None: ...
    def progress(self, progress: Progress) -> None: ...
    def metrics(self, points: list[MetricPoint]) -> None: ...
    def log(self, level: LogLevel, message: str) -> None: ...
    def checkpoint(self, note: CheckpointManifest, files: dict[CheckpointPart, Path]) -> None: ...

    def saving(self, saved: Future[None]) -> None:
        saved.result()
