"""The service and its peers as processes of this machine, and the jobs that they train."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import resnetd
from deploy.local import LocalService

# Some seconds of training with one worker.
SMALL_JOB: dict[str, Any] = {
    "depth": 8,
    "shortcut": "A",
    "dataset": "digits",
    "recipe": {"name": "quick", "iterations": 200},
}


@contextmanager
def running_service(*, num_cpus: int | None = None, **settings: str) -> Iterator[resnetd.Client]:
    """A client of a new service, whose files are deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="rb") as temporary:
        folder = Path(temporary)
        with (
            LocalService(
                folder / "var", num_cpus=num_cpus, logs_path=folder / "logs", settings=settings
            ) as service,
            resnetd.Client(url=service.url, token=service.token) as client,
        ):
            yield client


def run_peer(program: str, *arguments: str, env: dict[str, str]) -> None:
    """Runs a program of this virtual environment to its end. RuntimeError when it fails."""
    command = [str(Path(sys.executable).parent / program), *arguments]
    # Without compiled bytecode a peer needs seconds more for its imports.
    env = {name: value for name, value in env.items() if name != "PYTHONDONTWRITEBYTECODE"}
    completed = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if completed.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{completed.stdout}\n{completed.stderr}")
