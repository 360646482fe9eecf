"""`make bench-launch`: seconds from POST to the first optimizer step, beside Ray's own ways.

Ours: the service with one standby of as many workers, cold (the first job after the service is
up) and warm. Theirs, with the same network, data and workers, on the same machine after the
service has stopped: (a) `ray job submit` of a script with TorchTrainer, (b) TorchTrainer.fit()
called again and again in a driver that is warm, (c) torchrun of the plain script.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

import resnetd
from benchmarks.results_table import Row, publish
from deploy.local import LocalService
from deploy.ray_head import RayHead

_PEER = "benchmarks.launch_peer"
_NUM_CPUS = len(os.sched_getaffinity(0))
_CANCELS = 10
_STEPS = {
    "claimed": "created_at",
    "taken by its runner": "assigned_at",
    "data ready": "data_ready_at",
    "first optimizer step": "first_step_at",
}


@dataclass(frozen=True)
class Launches:
    """Seconds to the first optimizer step of each run, and of the last one the way there."""

    seconds: list[float]
    trace: dict[str, float]

    @property
    def p50(self) -> float:
        return statistics.median(self.seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10, help="warm jobs of ours")
    parser.add_argument("--peer-runs", type=int, default=10, help="runs of each peer")
    chosen = parser.parse_args()
    runs, peer_runs = chosen.runs, chosen.peer_runs
    rows: list[Row] = []
    for num_workers in (1, 2):
        cold, warm, freed = _ours(num_workers, runs)
        peers = _theirs(num_workers, peer_runs)
        shape = f"{num_workers} workers" if num_workers > 1 else "1 worker"
        _print_trace(f"POST to ..., warm, {shape}", warm.trace)
        submitted = peers["ray job submit"].p50
        rows += [
            Row(f"cold, {shape}, vs ray job submit", "s", cold, submitted),
            *(
                Row(f"warm, {shape}, vs {name}", "s", warm.p50, theirs.p50)
                for name, theirs in peers.items()
            ),
            Row(
                f"warm, {shape}, max of {runs}, vs ray job submit",
                "s",
                max(warm.seconds),
                max(peers["ray job submit"].seconds),
            ),
            Row(f"cancel to resources free, {shape}, max of {_CANCELS}", "s", max(freed)),
        ]
    publish("launch", rows)
    return 0


def _ours(num_workers: int, runs: int) -> tuple[float, Launches, list[float]]:
    """Seconds of the first job; the warm ones; seconds from cancel to free resources."""
    with _service(num_workers) as client:
        cold, _ = _launch(client, num_workers)
        launches = [_launch(client, num_workers) for _ in range(runs)]
        freed = [_cancel(client, num_workers, after=1.0 + 0.1 * turn) for turn in range(_CANCELS)]
    warm = Launches([seconds for seconds, _ in launches], launches[-1][1])
    return cold, warm, freed


@contextmanager
def _service(num_workers: int) -> Iterator[resnetd.Client]:
    with tempfile.TemporaryDirectory(prefix="rb") as name:
        folder = Path(name)
        settings = {"RESNETD_WARM_RUNNER_WORKERS": str(num_workers)}
        with (
            LocalService(folder / "var", logs_path=folder / "logs", settings=settings) as service,
            resnetd.Client(url=service.url, token=service.token) as client,
        ):
            yield client


def _submit(client: resnetd.Client, num_workers: int, *, iterations: int) -> resnetd.Job:
    return client.submit(
        depth=20,
        shortcut="A",
        dataset="digits",
        recipe={"name": "quick", "iterations": iterations},
        resources={"num_workers": num_workers},
    )


def _launch(client: resnetd.Client, num_workers: int) -> tuple[float, dict[str, float]]:
    """From the POST until each step, by the machine's one clock; returns once all is free."""
    posted_at = time.time()
    job = _submit(client, num_workers, iterations=5)
    client.wait(job.id, poll_seconds=0.1)
    (attempt,) = client.attempts(job.id)
    trace = {
        step: datetime.fromisoformat(attempt.document[field]).timestamp() - posted_at
        for step, field in _STEPS.items()
    }
    _wait_until_released(client, job.id)
    return trace["first optimizer step"], trace


def _cancel(client: resnetd.Client, num_workers: int, *, after: float) -> float:
    """Seconds, of a job that is cancelled so many seconds into its training."""
    job = _submit(client, num_workers, iterations=100_000)
    while client.job(job.id).state != "running":
        time.sleep(0.05)
    time.sleep(after)
    asked_at = time.time()
    client.cancel(job.id)
    return _wait_until_released(client, job.id) - asked_at


def _wait_until_released(client: resnetd.Client, job_id: str) -> float:
    """When the resources were free again, in seconds since 1970."""
    while (released := client.attempts(job_id)[-1].document["released_at"]) is None:
        time.sleep(0.02)
    return datetime.fromisoformat(released).timestamp()


def _theirs(num_workers: int, runs: int) -> dict[str, Launches]:
    """Each peer by its name."""
    with tempfile.TemporaryDirectory(prefix="rb") as name:
        folder = Path(name)
        head = RayHead(num_cpus=max(_NUM_CPUS, num_workers), env=os.environ)
        try:
            head.wait()
            submitted = [_ray_job_submit(head, num_workers, folder) for _ in range(runs)]
            fitted = _fit_in_a_warm_driver(head, num_workers, folder, runs)
        finally:
            head.stop()
        launched = [_torchrun(num_workers, folder) for _ in range(runs)]
    return {
        "ray job submit": Launches(submitted, {}),
        "fit() in a warm driver": Launches(fitted, {}),
        "torchrun": Launches(launched, {}),
    }


def _ray_job_submit(head: RayHead, num_workers: int, folder: Path) -> float:
    """Of the command itself, as a person types it."""
    mark = folder / "first_step"
    mark.unlink(missing_ok=True)
    began = time.time()
    run_beside(
        *("ray", "job", "submit", "--address", head.url, "--log-style", "record", "--"),
        *("python", "-m", _PEER, "fit", str(num_workers), str(mark)),
        env=head.env,
    )
    return float(mark.read_text()) - began


def _fit_in_a_warm_driver(head: RayHead, num_workers: int, folder: Path, runs: int) -> list[float]:
    marks = folder / "fits"
    run_beside(
        *("python", "-m", _PEER, "fits", str(num_workers), str(marks), str(runs)),
        env=head.env,
    )
    return [float(line) for line in marks.read_text().split()]


def _torchrun(num_workers: int, folder: Path) -> float:
    mark = folder / "first_step"
    mark.unlink(missing_ok=True)
    began = time.time()
    run_beside(
        *("torchrun", "--standalone", "--nproc-per-node", str(num_workers)),
        *("-m", _PEER, "plain", str(num_workers), str(mark)),
        env=dict(os.environ),
    )
    return float(mark.read_text()) - began


def run_beside(program: str, *arguments: str, env: dict[str, str]) -> None:
    """A peer's program of this environment, to its end. RuntimeError where it fails."""
    command = [str(Path(sys.executable).parent / program), *arguments]
    # Without compiled bytecode every peer would import for seconds longer.
    env = {name: value for name, value in env.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")


def _print_trace(title: str, trace: dict[str, float]) -> None:
    table = Table("step", title=title)
    table.add_column("seconds", justify="right")
    for step, seconds in trace.items():
        table.add_row(step, f"{seconds:.3f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    sys.exit(main())
