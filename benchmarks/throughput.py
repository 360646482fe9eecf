"""`make bench-many`: many small jobs, beside the same through the Ray Jobs API and Ray Tune.

Each trains a ResNet-8 on digits for some seconds, with one worker; two run at a time. The peers'
scripts train without the service; a Ray job's is a TorchTrainer, a trial's a plain function.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import resnetd
from benchmarks.launch import run_beside
from benchmarks.results_table import Row, publish
from deploy.local import LocalService
from deploy.ray_head import RayHead
from workers.cluster.ray_jobs import RayJobs

_AT_A_TIME = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100, help="ours, and Ray Tune's trials")
    parser.add_argument("--ray-jobs", type=int, default=100, help="of the slowest peer")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rb") as name:
        folder = Path(name)
        ours = _ours(chosen.jobs, folder)
        head = RayHead(num_cpus=_AT_A_TIME, env=os.environ)
        try:
            head.wait()
            tune = _ray_tune(head, chosen.jobs)
            jobs = _ray_jobs(head, chosen.ray_jobs)
        finally:
            head.stop()
    publish(
        "many",
        [
            Row(
                f"{chosen.jobs} small jobs vs {chosen.ray_jobs} through Ray Jobs",
                "jobs/min",
                ours,
                jobs,
                is_more_better=True,
            ),
            Row(
                f"{chosen.jobs} small jobs vs as many Ray Tune trials",
                "jobs/min",
                ours,
                tune,
                is_more_better=True,
            ),
        ],
    )
    return 0


def _ours(count: int, folder: Path) -> float:
    settings = {"RESNETD_WARM_RUNNERS": str(_AT_A_TIME)}
    with (
        LocalService(
            folder / "var", num_cpus=_AT_A_TIME, logs_path=folder / "logs", settings=settings
        ) as service,
        resnetd.Client(url=service.url, token=service.token) as client,
    ):

        def train_all() -> None:
            jobs = [_submit(client) for _ in range(count)]
            for job in jobs:
                client.wait(job.id, poll_seconds=0.2)

        return _jobs_per_minute(count, train_all)


def _submit(client: resnetd.Client) -> resnetd.Job:
    return client.submit(
        depth=8, shortcut="A", dataset="digits", recipe={"name": "quick", "iterations": 200}
    )


def _ray_tune(head: RayHead, count: int) -> float:
    """With the driver's own start, as the others' is in theirs."""
    return _jobs_per_minute(
        count,
        lambda: run_beside(
            *("python", "-m", "benchmarks.launch_peer", "tune", str(count), "-"), env=head.env
        ),
    )


def _ray_jobs(head: RayHead, count: int) -> float:
    """Submitted when a place is free: Ray itself would start all drivers at once."""

    def train_all() -> None:
        with RayJobs(url=head.url, token=head.token) as jobs:
            for number in range(count):
                while _running(jobs) >= _AT_A_TIME:
                    time.sleep(0.1)
                jobs.submit(
                    f"small-{number}",
                    entrypoint="python -m benchmarks.launch_peer small 1 -",
                    env_vars={"PYTHONPATH": str(Path.cwd())},
                    metadata={},
                )
            while _running(jobs):
                time.sleep(0.1)

    return _jobs_per_minute(count, train_all)


def _running(jobs: RayJobs) -> int:
    return sum(not job.state.is_final for job in jobs.list_jobs())


def _jobs_per_minute(count: int, train_all: Callable[[], None]) -> float:
    began = time.monotonic()
    train_all()
    return 60.0 * count / (time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main())
