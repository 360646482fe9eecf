"""Training from a terminal, in one process or several."""

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

from torch.multiprocessing.spawn import ProcessExitedException

from service.specs.job_spec import JobSpec
from service.states import CheckpointPart, LogLevel, StopReason
from service.text import count_of
from workers.training import checkpoint, spawn, trainer
from workers.training.device_context import DeviceContext
from workers.training.errors import TrainingError
from workers.training.observers import (
    LaunchTimes,
    Progress,
    RunEnvironment,
    SavedCheckpoint,
    StepTime,
)
from workers.training.trainer import Outcome

_SignalHandler = Callable[[int, FrameType | None], None] | signal.Handlers

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_LINE_WIDTH = 60


def run(spec: JobSpec, *, data_dir: Path, work_dir: Path) -> int:
    """The exit status: 0, 1 if the run failed, 130 if Ctrl-C stopped it.

    Each process has `OMP_NUM_THREADS` threads, by default its share of the CPUs.
    """
    num_processes = spec.worker_counts[-1]
    shared = max(1, len(os.sched_getaffinity(0)) // num_processes)
    threads = int(os.environ.get("OMP_NUM_THREADS", shared))
    run_rank = partial(_run_rank, spec, data_dir, work_dir)
    if num_processes == 1:
        return run_rank(spawn.make_context(rank=0, num_processes=1, threads=threads))
    # Ctrl-C reaches all processes of the terminal; rank 0 alone handles it.
    with _handle_interrupts(signal.SIG_IGN):
        try:
            spawn.run_processes(
                partial(_exit_with_status, run_rank), num_processes=num_processes, threads=threads
            )
        except ProcessExitedException as error:
            return int(error.exit_code)
    return 0


def _exit_with_status(run_rank: Callable[[DeviceContext], int], context: DeviceContext) -> None:
    status = run_rank(context)
    if context.rank == 0 and status != 0:
        sys.exit(status)


def _run_rank(spec: JobSpec, data_dir: Path, work_dir: Path, context: DeviceContext) -> int:
    try:
        return _train(spec, data_dir, work_dir, context)
    except (TrainingError, OSError) as error:
        if context.rank == 0:
            sys.stderr.write(f"{error}\n")
        return 1


def _train(spec: JobSpec, data_dir: Path, work_dir: Path, context: DeviceContext) -> int:
    observer = CliObserver()
    is_first = context.rank == 0
    with _handle_interrupts(observer.handle_interrupt if is_first else signal.SIG_IGN):
        outcome = trainer.train(
            spec,
            context=context,
            data_dir=data_dir,
            work_dir=work_dir,
            observer=observer,
            resume=checkpoint.find_newest(work_dir),
        )
        observer.wait_for_checkpoint()
    if is_first:
        _write(_format_outcome(spec, outcome))
    return 0 if outcome.stopped is None else EXIT_INTERRUPTED


@contextmanager
def _handle_interrupts(handler: _SignalHandler) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _format_outcome(spec: JobSpec, outcome: Outcome) -> str:
    columns = {
        "network": spec.network,
        "dataset": spec.dataset,
        "iterations": f"{outcome.iteration}",
        "training error": _percent(outcome.train_error),
        "test error": _percent(outcome.test_error),
        "seconds": f"{outcome.training_seconds:.1f}",
    }
    widths = [max(len(name), len(value)) for name, value in columns.items()]
    rows = [list(columns.keys()), list(columns.values())]
    return "".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in rows
    )


class CliObserver:
    """Prints a line per evaluation and keeps the newest checkpoint.

    On a terminal the progress between two evaluations is shown on a line that is overwritten.
    """

    def __init__(self) -> None:
        self.stop_requested: StopReason | None = None
        self._latest: dict[str, float] = {}
        self._pending: Future[None] | None = None

    def handle_interrupt(self, _number: int, _frame: FrameType | None) -> None:
        """The first Ctrl-C stops training before the next step, the second ends the process."""
        self.stop_requested = StopReason.CANCEL
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_start(self, environment: RunEnvironment) -> None:
        _write_line(
            f"{count_of(environment.parameters, 'parameter')}, "
            f"{count_of(environment.train_images, 'training image')}, "
            f"{count_of(environment.test_images, 'test image')}, "
            f"{count_of(environment.classes, 'class')}, "
            f"{environment.num_workers} x {environment.device}"
        )

    def on_first_step(self, times: LaunchTimes) -> None: ...

    def on_progress(self, progress: Progress) -> None:
        if sys.stdout.isatty():
            speed = progress.images_per_second or 0.0
            line = f"{progress.iteration:>8} of {progress.iterations}  {speed:,.0f} images/s"
            _write(f"{line:<{_LINE_WIDTH}}\r")

    def on_metrics(self, step: StepTime, values: Mapping[str, float]) -> None:
        self._latest |= values
        if "test/error" in values:
            _write_line(
                f"{step.iteration:>8}  "
                f"training error {_percent(self._latest.get('train/error'))}  "
                f"test error {_percent(values['test/error'])}  "
                f"learning rate {self._latest.get('learning_rate', 0):g}  "
                f"{self._latest.get('images_per_second', 0):,.0f} images/s"
            )

    def on_log(self, level: LogLevel, message: str) -> None:
        _write_line(message if level is LogLevel.INFO else f"{level}: {message}")

    def on_checkpoint_pending(self, written: Future[None]) -> None:
        self._pending = written

    def wait_for_checkpoint(self) -> None:
        """Until the last checkpoint is complete."""
        if self._pending is not None:
            self._pending.result()

    def on_checkpoint(self, saved: SavedCheckpoint) -> None:
        newest = saved.files[CheckpointPart.WEIGHTS].parent
        for directory in checkpoint.list_directories(newest.parent):
            if directory != newest:
                shutil.rmtree(directory)


def _write_line(line: str) -> None:
    _write(f"{line:<{_LINE_WIDTH}}\n" if sys.stdout.isatty() else f"{line}\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _percent(value: float | None) -> str:
    return "   -  " if value is None else f"{value:5.2f} %"
