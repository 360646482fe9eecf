"""Whom the training loop tells."""

from pathlib import Path
from typing import Protocol

from service.reports import CheckpointNote, Facts, Launch, LogLevel, MetricPoint, Part, Progress
from service.states import StopReason


class Observer(Protocol):
    """Called by rank 0 only, from the thread that trains."""

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


class Unheard:
    """An observer that nobody hears: of the ranks that have no voice."""

    @property
    def stop(self) -> StopReason | None:
        return None

    def facts(self, facts: Facts) -> None: ...
    def launched(self, launch: Launch) -> None: ...
    def progress(self, progress: Progress) -> None: ...
    def metrics(self, points: list[MetricPoint]) -> None: ...
    def log(self, level: LogLevel, message: str) -> None: ...
    def checkpoint(self, note: CheckpointNote, files: dict[Part, Path]) -> None: ...
