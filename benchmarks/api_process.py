"""The API as its own process, as in production, on a database that the benchmark fills."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from deploy.ray_head import free_ports

TOKEN = "token-of-a-benchmark"  # noqa: S105 - valid for this run's API only


@dataclass(frozen=True)
class ApiProcess:
    url: str
    http: httpx.Client
    pid: int

    def post(self, path: str, body: Any, *, token: str = TOKEN) -> Any:
        headers = {"Authorization": f"Bearer {token}"}
        return self.http.post(path, json=body, headers=headers).raise_for_status().json()

    def get(self, path: str) -> Any:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return self.http.get(path, headers=headers).raise_for_status().json()


@contextmanager
def running_api(database_url: str, folder: Path, *, token: str = TOKEN) -> Iterator[ApiProcess]:
    """`folder`: is created for the API's files. The database must have its tables."""
    folder.mkdir()
    (folder / "token").write_text(token)
    (port,) = free_ports(1)
    settings = {
        "VAR_DIR": folder,
        "DATABASE_URL": database_url,
        "API_PORT": port,
        "LOG_FORMAT": "json",
    }
    # A line for each request that changes something would hide what the benchmark prints.
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "api"],
            env=os.environ | {f"RESNETD_{name}": str(value) for name, value in settings.items()},
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        try:
            wait_until(lambda: _is_up(http, process))
            yield ApiProcess(url, http, process.pid)
        finally:
            process.terminate()
            process.wait()


def wait_until(condition: Callable[[], bool], *, within_seconds: float = 60.0) -> None:
    deadline = time.monotonic() + within_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the condition does not hold within {within_seconds:g} s")
        time.sleep(0.0005)


def _is_up(http: httpx.Client, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"the API exited with {process.returncode} during its start")
    try:
        return http.get("/v1/health").is_success
    except httpx.TransportError:
        return False
