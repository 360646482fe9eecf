"""The peers of bench-control: procrastinate and DBOS on the same PostgreSQL, Ray's Jobs API.

The libraries are installed in their own virtual environment, build/peers, because their
dependencies may conflict with ours. They have no HTTP, validation, resources or leases.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.results_table import Result
from deploy.ray_head import RayHead
from tests.support.postgres import PostgresServer
from workers.cluster.ray_jobs import RayJobClient
from workers.reporting.retry import retry_until

PEERS_PATH = Path("build/peers")
PACKAGES = ("procrastinate==3.10.0", "dbos==3.4.0")
RAY_JOBS = 20


def measure_peers(server: PostgresServer, ours: Sequence[Result]) -> list[Result]:
    """Each of our results that a peer has too, with the peer's number and name."""
    peers = {
        "procrastinate": _measure_library("procrastinate", server.new_database()),
        "DBOS": _measure_library("dbos", server.new_database()),
        "Ray Jobs": _measure_ray_jobs(),
    }
    return [
        replace(result, name=f"{result.name}; {peer}", peer=numbers[result.name])
        for peer, numbers in peers.items()
        for result in ours
        if result.name in numbers
    ]


def _measure_library(name: str, url: str) -> dict[str, float]:
    """The library's numbers by the names of our results."""
    python = PEERS_PATH / "bin" / "python"
    uv = str(Path(sys.executable).with_name("uv"))
    if not python.exists():
        subprocess.run([uv, "venv", "--quiet", str(PEERS_PATH)], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    subprocess.run([*install, *PACKAGES], check=True)
    script = Path(__file__).with_name(f"{name}_peer.py")
    completed = subprocess.run([python, script, url], check=True, capture_output=True, text=True)
    return _summarize(json.loads(completed.stdout.splitlines()[-1]))


def _measure_ray_jobs() -> dict[str, float]:
    """`true` as a Ray job, from its submission until it runs or has ended."""
    enqueued, latency = [], []
    with (
        RayHead(num_cpus=2, num_gpus=0, env=os.environ) as head,
        RayJobClient(url=head.url, token=head.token) as ray_jobs,
    ):
        # Not measured: a new head may have no agent yet, and the first job is the slowest.
        retry_until(partial(_submit, ray_jobs, "peer-0"), deadline_seconds=60.0)
        for number in range(1, RAY_JOBS + 1):
            name = f"peer-{number}"
            started = time.monotonic()
            _submit(ray_jobs, name)
            enqueued.append(time.monotonic() - started)
            while (job := ray_jobs.find_job(name)) is None or job.state == "pending":
                time.sleep(0.005)
            latency.append(time.monotonic() - started)
    return _summarize({"enqueued": enqueued, "latency": latency})


def _submit(ray_jobs: RayJobClient, name: str) -> None:
    ray_jobs.submit(name, entrypoint="true", env_vars={}, metadata={})


def _summarize(measurements: dict[str, Any]) -> dict[str, float]:
    """Percentiles in ms and rates, by the names of our results."""
    numbers: dict[str, float] = {}
    for name, key in (("POST", "enqueued"), ("submit to claimed", "latency")):
        percentiles = statistics.quantiles(measurements[key], n=100, method="inclusive")
        for percent in (50, 99):
            numbers[f"{name} p{percent} ms, postgres"] = percentiles[percent - 1] * 1000
    if "per_second" in measurements:
        numbers["claims/s with 1 dispatcher, postgres"] = measurements["per_second"]
    return numbers
