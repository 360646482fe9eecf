"""What bench-control compares with: procrastinate and DBOS on the same PostgreSQL, Ray's Jobs API.

The libraries are installed into an environment of their own, build/peers: theirs need not agree
with what we depend on. They have no HTTP, no validation, no resources and no leases.
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

from benchmarks.results_table import Row
from deploy.ray_head import RayHead
from tests.support.postgres import PostgresServer
from workers.cluster.ray_jobs import RayJobs
from workers.reporting.retry import retry_until

PEERS = Path("build/peers")
PACKAGES = ("procrastinate==3.10.0", "dbos==3.4.0")
RAY_JOBS = 20


def rows(server: PostgresServer, ours: Sequence[Row]) -> list[Row]:
    """Our rows again, each beside a peer's figure; the row's name says whose."""
    told = {
        "procrastinate": _library("procrastinate", server.new_database()),
        "DBOS": _library("dbos", server.new_database()),
        "Ray Jobs": _ray_jobs(),
    }
    return [
        replace(row, what=f"{row.what}; {peer}", theirs=theirs[row.what])
        for peer, theirs in told.items()
        for row in ours
        if row.what in theirs
    ]


def _library(name: str, url: str) -> dict[str, float]:
    """Its figures by the names of our rows."""
    python = PEERS / "bin" / "python"
    uv = str(Path(sys.executable).with_name("uv"))
    if not python.exists():
        subprocess.run([uv, "venv", "--quiet", str(PEERS)], check=True)
    install = [uv, "pip", "install", "--quiet", "--python", str(python)]
    subprocess.run([*install, *PACKAGES], check=True)
    script = Path(__file__).with_name(f"{name}_peer.py")
    said = subprocess.run([python, script, url], check=True, capture_output=True, text=True)
    return _figures(json.loads(said.stdout.splitlines()[-1]))


def _ray_jobs() -> dict[str, float]:
    """`true` as a Ray job: it is submitted, and it is seen running or already over."""
    enqueued, latency = [], []
    head = RayHead(num_cpus=2, num_gpus=0, env=os.environ)
    try:
        head.wait()
        with RayJobs(url=head.url, token=head.token) as cluster:
            # A head that has just come up may have no agent yet; and the first is the slowest.
            retry_until(partial(_submit, cluster, "peer-0"), deadline_seconds=60.0)
            for number in range(1, RAY_JOBS + 1):
                name = f"peer-{number}"
                began = time.monotonic()
                _submit(cluster, name)
                enqueued.append(time.monotonic() - began)
                while (job := cluster.status(name)) is None or job.state == "pending":
                    time.sleep(0.005)
                latency.append(time.monotonic() - began)
    finally:
        head.stop()
    return _figures({"enqueued": enqueued, "latency": latency})


def _submit(cluster: RayJobs, name: str) -> None:
    cluster.submit(name, entrypoint="true", env_vars={}, metadata={})


def _figures(measured: dict[str, Any]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for what, name in (("POST", "enqueued"), ("submit to claimed", "latency")):
        for percent in (50, 99):
            each = statistics.quantiles(measured[name], n=100, method="inclusive")[percent - 1]
            figures[f"{what} p{percent} ms, postgres"] = each * 1000
    if "per_second" in measured:
        figures["claims/s with 1 dispatchers, postgres"] = measured["per_second"]
    return figures
