"""Whom the training loop tells in a benchmark."""

from pathlib import Path

from service.reports import CheckpointNote, Facts, Launch, LogLevel, MetricPoint, Part, Progress
from service.states import StopReason


class Unheard:
    """An observer that nobody hears."""

    @property
    def stop(self) -> StopReason | None:
        return None

    def facts(self, facts: Facts) -> None: ...
    def launched(self, launch: Launch) -> None: ...
    def progress(self, progress: Progress) -> None: ...
    def metrics(self, points: list[MetricPoint]) -> None: ...
    def log(self, level: LogLevel, message: str) -> None: ...
    def checkpoint(self, note: CheckpointNote, files: dict[Part, Path]) -> None: ...
