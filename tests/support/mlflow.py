"""A real server of MLflow in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from deploy.ray_head import free_ports

_START_SECONDS = 90


class MlflowServer:
    """Its start takes seconds; `wait` for it before the first request."""

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "log"
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--host", "127.0.0.1", "--port", str(port)),
            *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
            *("--artifacts-destination", str(folder / "artifacts")),
        ]
        environment = os.environ | {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        with httpx.Client(trust_env=False) as client:
            while True:
                try:
                    if client.get(f"{self.url}/health").is_success:
                        return
                except httpx.TransportError:
                    pass
                if self._process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"MLflow does not answer:\n{self._log.read_text()}")
                time.sleep(0.1)

    def stop(self) -> None:
        # It does not end its workers.
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def starting_mlflow(folder: Path) -> Iterator[MlflowServer]:
    server = MlflowServer(folder)
    try:
        yield server
    finally:
        server.stop()
