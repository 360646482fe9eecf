"""A training that somebody watches in a terminal, in one process or several."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from torch.multiprocessing.spawn import ProcessExitedException

from service.specs.job_spec import JobSpec
from service.specs.protocol import (
    CheckpointManifest,
    LaunchTimes,
    MetricPoint,
    Progress,
    RunEnvironment,
)
from service.states import CheckpointPart, LogLevel, StopReason
from workers.training import checkpoint, spawn, trainer
from workers.training.device_context import DeviceContext
from workers.training.errors import TrainingError
from workers.training.trainer import Outcome

Work = Callable[[DeviceContext], int]
Answer = Callable[[int, FrameType | None], None] | signal.Handlers

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def run(job: JobSpec, *, data_path: Path, work_path: Path) -> int:
    """The exit status: 0, 1 where it could not go on, 130 where Ctrl-C stopped it."""
    num_processes = job.resources.num_workers
    threads = max(1, len(os.sched_getaffinity(0)) // num_processes)
    work = partial(_train, job, data_path, work_path)
    if num_processes == 1:
        return _status(work, spawn.place(rank=0, num_processes=1, threads=threads))
    # Ctrl-C reaches every process of the terminal; rank 0 alone answers it, see _train.
    with _interrupts_answered_by(signal.SIG_IGN):
        try:
            spawn.spawn(partial(_exit, work), num_processes=num_processes, threads=threads)
        except ProcessExitedException as error:
            return int(error.exit_code)
    return 0


def _exit(work: Work, place: DeviceContext) -> None:
    status = _status(work, place)
    if place.rank == 0 and status != 0:
        sys.exit(status)


def _status(work: Work, place: DeviceContext) -> int:
    try:
        return work(place)
    except (TrainingError, OSError) as error:
        if place.rank == 0:
            sys.stderr.write(f"{error}\n")
        return 1


def _train(job: JobSpec, data_path: Path, work_path: Path, place: DeviceContext) -> int:
    console = Console()
    with _interrupts_answered_by(console.interrupt if place.rank == 0 else signal.SIG_IGN):
        outcome = trainer.train(
            job,
            place=place,
            data_path=data_path,
            work_path=work_path,
            observer=console,
            resume=checkpoint.find_newest(work_path),
        )
        console.wait()
    if place.rank == 0:
        _write(_table(job, outcome))
    return 0 if outcome.stopped is None else INTERRUPTED


@contextmanager
def _interrupts_answered_by(answer: Answer) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, answer)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _table(job: JobSpec, outcome: Outcome) -> str:
    result = outcome.result
    cells = {
        "network": job.network,
        "dataset": job.dataset,
        "iterations": f"{outcome.iteration}",
        "training error": "-" if result.train_error is None else f"{result.train_error:.2f} %",
        "test error": "-" if result.test_error is None else f"{result.test_error:.2f} %",
        "seconds": f"{result.training_seconds:.1f}",
    }
    widths = [max(len(head), len(cell)) for head, cell in cells.items()]
    return "".join(
        "  ".join(f"{word:<{width}}" for word, width in zip(words, widths, strict=True)).rstrip()
        + "\n"
        for words in (cells.keys(), cells.values())
    )


class Console:
    """Prints a line per evaluation and keeps the newest checkpoint.

    Between two lines the place in the run is shown in passing, where the output is a terminal.
    """

    def __init__(self) -> None:
        self.stop: StopReason | None = None
        self._newest: dict[str, float | None] = {}
        self._saved: Future[None] | None = None

    def interrupt(self, _number: int, _frame: FrameType | None) -> None:
        """The first Ctrl-C stops the training at its next step, the second ends the process."""
        self.stop = StopReason.CANCEL
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def environment(self, environment: RunEnvironment) -> None:
        _write_line(
            f"{environment.parameters:,} parameters, {environment.train_images:,} training and "
            f"{environment.test_images:,} test images in {environment.classes} classes, "
            f"{environment.num_workers} x {environment.device}"
        )

    def launched(self, launch: LaunchTimes) -> None: ...

    def progress(self, progress: Progress) -> None:
        if sys.stdout.isatty():
            speed = progress.images_per_second or 0.0
            line = f"{progress.iteration:>8} of {progress.iterations}  {speed:,.0f} images/s"
            _write(f"{line:<60}\r")

    def metrics(self, points: list[MetricPoint]) -> None:
        self._newest |= {point.series: point.value for point in points}
        if any(point.series == "test/error" for point in points):
            _write_line(
                f"{points[0].iteration:>8}  "
                f"training error {_percent(self._newest.get('train/error'))}  "
                f"test error {_percent(self._newest['test/error'])}  "
                f"learning rate {self._newest.get('learning_rate') or 0:g}  "
                f"{self._newest.get('images_per_second') or 0:,.0f} images/s"
            )

    def log(self, level: LogLevel, message: str) -> None:
        _write_line(message if level is LogLevel.INFO else f"{level}: {message}")

    def saving(self, saved: Future[None]) -> None:
        self._saved = saved

    def wait(self) -> None:
        """Until the last checkpoint is whole."""
        if self._saved is not None:
            self._saved.result()

    def checkpoint(self, note: CheckpointManifest, files: dict[CheckpointPart, Path]) -> None:
        del note
        newest = files[CheckpointPart.WEIGHTS].parent
        for folder in checkpoint.list_folders(newest.parent):
            if folder != newest:
                shutil.rmtree(folder)


def _write_line(line: str) -> None:
    _write(f"{line:<60}\n" if sys.stdout.isatty() else f"{line}\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _percent(value: float | None) -> str:
    return "   -  " if value is None else f"{value:5.2f} %"
