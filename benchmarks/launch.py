"""`make bench-launch`: seconds from POST to the first optimizer step.

Ours: the service with a warm runner of as many workers, cold (the first job after the service's
start) and warm. Peers, with the same network, dataset and workers, after the service has stopped:
`ray job submit` of a script with TorchTrainer; repeated TorchTrainer.fit() in one driver; torchrun
of the plain script.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

import resnetd
from benchmarks.processes import run_peer, running_service
from benchmarks.results_table import Result, write_results
from deploy.ray_head import RayHead
from service.text import count_of

_PEER = "benchmarks.training_peer"
_NUM_CPUS = len(os.sched_getaffinity(0))
_CANCELS = 10
# The fields of an attempt in which the time of each step is stored.
_STEPS = {
    "claimed": "created_at",
    "assigned to its runner": "assigned_at",
    "data ready": "data_ready_at",
    "first optimizer step": "first_step_at",
}


@dataclass(frozen=True)
class ServiceTimes:
    """All in seconds. `trace`: from the POST to each step of the last warm job.

    `release`: from a cancellation to free resources.
    """

    cold: float
    warm: list[float]
    trace: dict[str, float]
    release: list[float]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-launch", description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="warm jobs")
    parser.add_argument("--peer-runs", type=int, default=10, help="runs of each peer")
    options = parser.parse_args()
    results: list[Result] = []
    for num_workers in (1, 2):
        ours = _measure_service(num_workers, options.runs)
        peers = _measure_peers(num_workers, options.peer_runs)
        results += _compare(num_workers, ours, peers)
    write_results("launch", results)
    return 0


def _compare(num_workers: int, ours: ServiceTimes, peers: dict[str, list[float]]) -> list[Result]:
    workers = count_of(num_workers, "worker")
    _print_trace(f"POST to ..., warm, {workers}", ours.trace)
    submit = peers["ray job submit"]
    warm = statistics.median(ours.warm)
    return [
        Result(f"cold, {workers}, vs ray job submit", "s", ours.cold, statistics.median(submit)),
        *(
            Result(f"warm, {workers}, vs {name}", "s", warm, statistics.median(seconds))
            for name, seconds in peers.items()
        ),
        Result(
            f"warm, {workers}, max of {len(ours.warm)}, vs ray job submit",
            "s",
            max(ours.warm),
            max(submit),
        ),
        Result(f"cancel to free resources, {workers}, max of {_CANCELS}", "s", max(ours.release)),
    ]


def _measure_service(num_workers: int, runs: int) -> ServiceTimes:
    with running_service(RESNETD_WARM_RUNNER_WORKERS=str(num_workers)) as client:
        cold = _launch(client, num_workers)
        warm = [_launch(client, num_workers) for _ in range(runs)]
        release = [
            _cancel(client, num_workers, after_seconds=1.0 + 0.1 * number)
            for number in range(_CANCELS)
        ]
    last_step = "first optimizer step"
    return ServiceTimes(
        cold=cold[last_step],
        warm=[trace[last_step] for trace in warm],
        trace=warm[-1],
        release=release,
    )


def _submit(client: resnetd.Client, num_workers: int, *, iterations: int) -> resnetd.Job:
    return client.submit(
        depth=20,
        shortcut="A",
        dataset="digits",
        recipe={"name": "quick", "iterations": iterations},
        resources={"num_workers": num_workers},
    )


def _launch(client: resnetd.Client, num_workers: int) -> dict[str, float]:
    """Seconds from the POST to each step; returns once the job's resources are free."""
    posted_at = time.time()
    job = _submit(client, num_workers, iterations=5)
    client.jobs.wait(job.id, poll_seconds=0.1)
    (attempt,) = client.jobs.attempts(job.id)
    trace = {
        step: datetime.fromisoformat(attempt.document[field]).timestamp() - posted_at
        for step, field in _STEPS.items()
    }
    _wait_until_released(client, job.id)
    return trace


def _cancel(client: resnetd.Client, num_workers: int, *, after_seconds: float) -> float:
    """Seconds from the cancellation of a job, which has run for a while, to free resources."""
    job = _submit(client, num_workers, iterations=100_000)
    while client.jobs.get(job.id).state != "running":
        time.sleep(0.05)
    time.sleep(after_seconds)
    cancelled_at = time.time()
    client.jobs.cancel(job.id)
    return _wait_until_released(client, job.id) - cancelled_at


def _wait_until_released(client: resnetd.Client, job_id: str) -> float:
    """When the job's resources became free, in seconds since 1970."""
    while (released := client.jobs.attempts(job_id)[-1].document["released_at"]) is None:
        time.sleep(0.02)
    return datetime.fromisoformat(released).timestamp()


def _measure_peers(num_workers: int, runs: int) -> dict[str, list[float]]:
    """Seconds to the first optimizer step of each run, by peer."""
    with tempfile.TemporaryDirectory(prefix="rb") as temporary:
        folder = Path(temporary)
        with RayHead(num_cpus=max(_NUM_CPUS, num_workers), env=os.environ) as head:
            submit = [_run_ray_job_submit(head, num_workers, folder) for _ in range(runs)]
            fit = _run_fits(head, num_workers, folder, runs)
        torchrun = [_run_torchrun(num_workers, folder) for _ in range(runs)]
    return {"ray job submit": submit, "fit() in a warm driver": fit, "torchrun": torchrun}


def _run_ray_job_submit(head: RayHead, num_workers: int, folder: Path) -> float:
    """With the start of the command line itself."""
    first_step = folder / "first_step"
    first_step.unlink(missing_ok=True)
    started = time.time()
    run_peer(
        *("ray", "job", "submit", "--address", head.url, "--log-style", "record", "--"),
        *("python", "-m", _PEER, "fit", str(num_workers), str(first_step)),
        env=head.env,
    )
    return float(first_step.read_text()) - started


def _run_fits(head: RayHead, num_workers: int, folder: Path, runs: int) -> list[float]:
    seconds = folder / "seconds"
    run_peer(
        *("python", "-m", _PEER, "fits", str(num_workers), str(seconds), str(runs)), env=head.env
    )
    return [float(line) for line in seconds.read_text().split()]


def _run_torchrun(num_workers: int, folder: Path) -> float:
    first_step = folder / "first_step"
    first_step.unlink(missing_ok=True)
    started = time.time()
    run_peer(
        *("torchrun", "--standalone", "--nproc-per-node", str(num_workers)),
        *("-m", _PEER, "plain", str(num_workers), str(first_step)),
        env=dict(os.environ),
    )
    return float(first_step.read_text()) - started


def _print_trace(title: str, trace: dict[str, float]) -> None:
    table = Table("step", title=title)
    table.add_column("seconds", justify="right")
    for step, seconds in trace.items():
        table.add_row(step, f"{seconds:.3f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    sys.exit(main())
