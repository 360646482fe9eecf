"""`make bench-search`: a search over learning rates, beside the same through plain Ray Tune.

Each trial trains a ResNet-8 on digits for some seconds, with one worker; two run at a time. What
a trial costs beside its training is the CPU time of all processes from the cluster's start on,
runners and drivers included, less that of the bare loop.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

import resnetd
from benchmarks.launch import run_beside
from benchmarks.results_table import Row, publish
from deploy.local import LocalService
from deploy.ray_head import RayHead
from service.specs.job_spec import parse_job_spec
from workers.training import trainer
from workers.training.device_context import DeviceContext
from workers.training.observers import NullObserver

_AT_A_TIME = 2
_LOOK_SECONDS = 0.2
_JOB = {
    "depth": 8,
    "shortcut": "A",
    "dataset": "digits",
    "recipe": {"name": "quick", "iterations": 200},
}
_SPACE = {"recipe.learning_rate": {"loguniform": [0.01, 0.5]}}


@dataclass(frozen=True)
class Cost:
    """Of a whole search: seconds from its submission, CPU seconds from the cluster's start."""

    seconds: float
    cpu_seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    trials = parser.parse_args().trials
    with tempfile.TemporaryDirectory(prefix="rb") as name:
        bare = _bare_cpu_seconds(Path(name))
        ours = _ours(trials, Path(name) / "alone")
        theirs = _ray_tune(trials)

    def per_hour(what: str, one: Cost, other: Cost) -> Row:
        first, second = (3600 * trials / cost.seconds for cost in (one, other))
        return Row(what, "trials/hour", first, second, is_more_better=True)

    publish(
        "search",
        [
            per_hour(f"random search of {trials} trials", ours, theirs),
            Row(
                "of each trial, beside its training",
                "CPU-s",
                ours.cpu_seconds / trials - bare,
                theirs.cpu_seconds / trials - bare,
            ),
            Row("of each trial, its training alone", "CPU-s", bare),
        ],
    )
    return 0


def _ours(trials: int, folder: Path) -> Cost:
    settings = {"RESNETD_WARM_RUNNERS": str(_AT_A_TIME)}
    with (
        _counting() as cpu_seconds,
        LocalService(
            folder / "var", num_cpus=_AT_A_TIME, logs_path=folder / "logs", settings=settings
        ) as service,
        resnetd.Client(url=service.url, token=service.token) as client,
    ):
        began = time.monotonic()
        search = client.submit_search(
            job=_JOB,
            space=_SPACE,
            algorithm="random",
            budget={"trials": trials, "concurrent": _AT_A_TIME},
        )
        search = client.wait_search(search.id, poll_seconds=0.2)
        if search.state != "succeeded":
            raise RuntimeError(f"the search {search.state}: {search.message}")
        return Cost(seconds=time.monotonic() - began, cpu_seconds=cpu_seconds())


def _ray_tune(trials: int) -> Cost:
    """With the driver's own start, as ours."""
    with _counting() as cpu_seconds:
        head = RayHead(num_cpus=_AT_A_TIME, env=os.environ)
        try:
            head.wait()
            began = time.monotonic()
            command = ("python", "-m", "benchmarks.launch_peer", "tune", str(trials), "-")
            run_beside(*command, env=head.env)
            return Cost(seconds=time.monotonic() - began, cpu_seconds=cpu_seconds())
        finally:
            head.stop()


def _bare_cpu_seconds(folder: Path) -> float:
    """Of one training in this process, the second one: imports and first calls are over."""
    place = DeviceContext(rank=0, world_size=1, device=torch.device("cpu"), threads=1)
    seconds = 0.0
    for number in range(2):
        began = time.process_time()
        trainer.train(
            parse_job_spec(_JOB),
            place=place,
            data_path=folder,
            work_path=folder / f"bare-{number}",
            observer=NullObserver(),
        )
        seconds = time.process_time() - began
    return seconds


@contextmanager
def _counting() -> Iterator[Callable[[], float]]:
    """Seconds of CPU of the processes below this one, ended ones included.

    They are looked at five times a second: Ray's raylet does not wait for its children, so the
    kernel adds the time of those that have ended to nobody's.
    """
    seen: dict[tuple[int, float], float] = {}
    stopping = threading.Event()

    def look() -> None:
        for process in psutil.Process().children(recursive=True):
            try:
                times = process.cpu_times()
                seen[process.pid, process.create_time()] = times.user + times.system
            except psutil.NoSuchProcess:
                continue

    def watch() -> None:
        while not stopping.wait(_LOOK_SECONDS):
            look()

    def used() -> float:
        look()
        return sum(list(seen.values()))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield used
    finally:
        stopping.set()
        watching.join()


if __name__ == "__main__":
    sys.exit(main())
