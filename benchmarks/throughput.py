"""`make bench-throughput`: jobs per minute of many small jobs.

Each trains a ResNet-8 on digits for some seconds with one worker; two run at a time. Peers: the
same training as one TorchTrainer per job of the Ray Jobs API, and as trials of Ray Tune.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.processes import SMALL_JOB, run_peer, running_service
from benchmarks.results_table import Result, write_results
from deploy.ray_head import RayHead
from workers.cluster.ray_jobs import RayJobClient

_CONCURRENT = 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-throughput", description=__doc__)
    parser.add_argument("--jobs", type=int, default=100, help="jobs, and trials of Ray Tune")
    parser.add_argument("--ray-jobs", type=int, default=100, help="jobs of the Ray Jobs API")
    options = parser.parse_args()
    num_jobs, num_ray_jobs = options.jobs, options.ray_jobs
    ours = _measure_service(num_jobs)
    with RayHead(num_cpus=_CONCURRENT, env=os.environ) as head:
        ray_tune = _measure_ray_tune(head, num_jobs)
        ray_jobs = _measure_ray_jobs(head, num_ray_jobs)
    name = f"{num_jobs} small jobs vs {num_ray_jobs} of the Ray Jobs API"
    results = [
        Result(name, "jobs/min", ours, ray_jobs, is_higher_better=True),
        Result(
            f"{num_jobs} small jobs vs as many trials of Ray Tune",
            "jobs/min",
            ours,
            ray_tune,
            is_higher_better=True,
        ),
    ]
    write_results("throughput", results)
    return 0


def _measure_service(count: int) -> float:
    """Jobs/min, submitted all at once."""
    with running_service(num_cpus=_CONCURRENT, RESNETD_WARM_RUNNERS=str(_CONCURRENT)) as client:

        def train() -> None:
            jobs = [client.submit(SMALL_JOB) for _ in range(count)]
            for job in jobs:
                client.jobs.wait(job.id, poll_seconds=0.2)

        return _jobs_per_minute(count, train)


def _measure_ray_tune(head: RayHead, count: int) -> float:
    """Trials/min, with the start of the driver."""
    command = ("python", "-m", "benchmarks.training_peer", "tune", str(count), "-")
    return _jobs_per_minute(count, lambda: run_peer(*command, env=head.env))


def _measure_ray_jobs(head: RayHead, count: int) -> float:
    """Jobs/min, each submitted when another has ended: Ray would start all drivers at once."""

    def train() -> None:
        with RayJobClient(url=head.url, token=head.token) as ray_jobs:
            for number in range(count):
                while _count_running(ray_jobs) >= _CONCURRENT:
                    time.sleep(0.1)
                ray_jobs.submit(
                    f"small-{number}",
                    entrypoint="python -m benchmarks.training_peer small 1 -",
                    env_vars={"PYTHONPATH": str(Path.cwd())},
                    metadata={},
                )
            while _count_running(ray_jobs):
                time.sleep(0.1)

    return _jobs_per_minute(count, train)


def _count_running(ray_jobs: RayJobClient) -> int:
    return sum(not job.state.is_final for job in ray_jobs.list_jobs())


def _jobs_per_minute(count: int, train: Callable[[], None]) -> float:
    started = time.monotonic()
    train()
    return 60.0 * count / (time.monotonic() - started)


if __name__ == "__main__":
    sys.exit(main())
