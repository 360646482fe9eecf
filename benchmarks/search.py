"""`make bench-search`: trials per hour of a random search, and CPU-seconds of a trial.

Each trial trains a ResNet-8 on digits for some seconds with one worker; two run at a time. Peer:
the same search with Ray Tune alone. The overhead of a trial is the CPU time of all processes
since the cluster's start, divided by the trials, less that of training alone.
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

from benchmarks.processes import SMALL_JOB, run_peer, running_service
from benchmarks.results_table import Result, write_results
from deploy.ray_head import RayHead
from service.specs.job_spec import parse_job_spec
from workers.training import trainer
from workers.training.device_context import DeviceContext
from workers.training.observers import NullObserver

_CONCURRENT = 2
_SAMPLE_SECONDS = 0.2
_SPACE = {"recipe.learning_rate": {"loguniform": [0.01, 0.5]}}


@dataclass(frozen=True)
class Cost:
    """Of a search: seconds from its submission, CPU-seconds from the start of the cluster."""

    seconds: float
    cpu_seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-search", description=__doc__)
    parser.add_argument("--trials", type=int, default=20, help="trials of each search")
    trials = parser.parse_args().trials
    training = _measure_training_cpu_seconds()
    ours = _measure_service(trials)
    peer = _measure_ray_tune(trials)
    results = [
        Result(
            f"random search of {trials} trials vs Ray Tune",
            "trials/hour",
            3600 * trials / ours.seconds,
            3600 * trials / peer.seconds,
            is_higher_better=True,
        ),
        Result(
            "overhead of a trial vs Ray Tune",
            "CPU-s",
            ours.cpu_seconds / trials - training,
            peer.cpu_seconds / trials - training,
        ),
        Result("training of a trial", "CPU-s", training),
    ]
    write_results("search", results)
    return 0


def _measure_training_cpu_seconds() -> float:
    """Of the second training in this process, after all imports and first calls."""
    context = DeviceContext(rank=0, world_size=1, device=torch.device("cpu"), threads=1)
    seconds = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(2):
            started = time.process_time()
            trainer.train(
                parse_job_spec(SMALL_JOB),
                context=context,
                data_dir=Path(temporary),
                work_dir=Path(temporary) / f"run-{number}",
                observer=NullObserver(),
            )
            seconds = time.process_time() - started
    return seconds


def _measure_service(trials: int) -> Cost:
    with (
        _counting_cpu_seconds() as cpu_seconds,
        running_service(num_cpus=_CONCURRENT, RESNETD_WARM_RUNNERS=str(_CONCURRENT)) as client,
    ):
        started = time.monotonic()
        search = client.searches.submit(
            job=SMALL_JOB,
            space=_SPACE,
            algorithm="random",
            budget={"trials": trials, "concurrent": _CONCURRENT},
        )
        search = client.searches.wait(search.id, poll_seconds=0.2)
        if search.state != "succeeded":
            raise RuntimeError(f"the search is {search.state}: {search.message}")
        return Cost(seconds=time.monotonic() - started, cpu_seconds=cpu_seconds())


def _measure_ray_tune(trials: int) -> Cost:
    """With the start of the driver, as ours."""
    with (
        _counting_cpu_seconds() as cpu_seconds,
        RayHead(num_cpus=_CONCURRENT, env=os.environ) as head,
    ):
        started = time.monotonic()
        command = ("python", "-m", "benchmarks.training_peer", "tune", str(trials), "-")
        run_peer(*command, env=head.env)
        return Cost(seconds=time.monotonic() - started, cpu_seconds=cpu_seconds())


@contextmanager
def _counting_cpu_seconds() -> Iterator[Callable[[], float]]:
    """A function that returns the CPU-seconds of all descendants, exited ones included.

    They are sampled: Ray's raylet does not wait for its children, so the kernel adds the time of
    exited ones to no other process.
    """
    samples: dict[tuple[int, float], float] = {}
    stopping = threading.Event()

    def sample() -> None:
        for process in psutil.Process().children(recursive=True):
            try:
                times = process.cpu_times()
                samples[process.pid, process.create_time()] = times.user + times.system
            except psutil.NoSuchProcess:
                continue

    def sample_until_stopped() -> None:
        while not stopping.wait(_SAMPLE_SECONDS):
            sample()

    def cpu_seconds() -> float:
        sample()
        return sum(list(samples.values()))

    sampler = threading.Thread(target=sample_until_stopped)
    sampler.start()
    try:
        yield cpu_seconds
    finally:
        stopping.set()
        sampler.join()


if __name__ == "__main__":
    sys.exit(main())
