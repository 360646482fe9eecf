"""A Ray head on this machine, with its own ports, token and folder; leaves nothing behind."""

import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import httpx

START_SECONDS = 120.0
# Ray requires 75 MiB; DDP puts nothing into the object store.
_OBJECT_STORE_BYTES = 80_000_000
# Without compiled bytecode each Ray process needs 3 more CPU-seconds to import torch.
_NOT_INHERITED = {"PYTHONDONTWRITEBYTECODE"}


class RayHead:
    """Starts when constructed. `with` waits until it responds, and stops it.

    `env` is the environment of processes that use this head. The head runs under
    deploy.process_reaper: it stops with this process, with all processes that it started.
    """

    def __init__(
        self,
        *,
        num_cpus: int,
        num_gpus: int | None = None,
        token: str | None = None,
        env: Mapping[str, str],
    ) -> None:
        """`num_gpus` None: as many as Ray finds. `env`: the complete environment, PATH included."""
        # It contains Ray's sockets, and the path of a socket has at most 107 bytes.
        self.temp_path = Path(tempfile.mkdtemp(prefix="rd", dir="/tmp"))
        self.token = token or secrets.token_hex(32)
        gcs, dashboard, objects, nodes, agent, agent_grpc, metrics = free_ports(7)
        self.address = f"{_host_address()}:{gcs}"
        self.url = f"http://127.0.0.1:{dashboard}"
        self.env = {
            **{name: value for name, value in env.items() if name not in _NOT_INHERITED},
            # Jobs run `python`, which must be this interpreter.
            "PATH": f"{Path(sys.executable).parent}:{env.get('PATH', '')}",
            # Without it each run of Ray Train ends 12 s late when Ray finds another cluster.
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            # Ray's own metrics: no process here reads them, and they take CPU time.
            "RAY_enable_metrics_collection": "0",
            # By default workers run at nice 15, and any other process starves them.
            "RAY_worker_niceness": "0",
            # Ray Train's workers never use a process that Ray started in advance.
            "RAY_prestart_worker_first_driver": "0",
        }
        self._command = [
            *(str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"),
            *("--port", str(gcs), "--dashboard-port", str(dashboard)),
            *("--object-manager-port", str(objects), "--node-manager-port", str(nodes)),
            *("--dashboard-agent-listen-port", str(agent)),
            *("--dashboard-agent-grpc-port", str(agent_grpc)),
            *("--metrics-export-port", str(metrics)),
            *("--min-worker-port", "0", "--max-worker-port", "0"),
            *("--num-cpus", str(num_cpus)),
            *(() if num_gpus is None else ("--num-gpus", str(num_gpus))),
            *("--object-store-memory", str(_OBJECT_STORE_BYTES)),
            *("--temp-dir", str(self.temp_path), "--disable-usage-stats"),
        ]
        self._log_path = self.temp_path / "head.log"
        self.process = self._start()

    def __enter__(self) -> Self:
        try:
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def restart(self) -> None:
        """Starts a head that has exited again: the same address, no state."""
        assert self.process.poll() is not None
        self.process = self._start()

    def wait(self) -> None:
        """Returns once the job endpoint responds. RuntimeError with Ray's log when it does not."""
        deadline = time.monotonic() + START_SECONDS
        headers = {"Authorization": f"Bearer {self.token}"}
        with httpx.Client(
            base_url=self.url, headers=headers, timeout=5.0, trust_env=False
        ) as client:
            while time.monotonic() < deadline and self.process.poll() is None:
                try:
                    # The agent that serves jobs starts after the dashboard.
                    if (
                        client.get("/api/jobs/").is_success
                        and client.get("/api/v0/nodes").is_success
                    ):
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
        raise RuntimeError(f"Ray did not start:\n{self._log_path.read_text()[-4000:]}")

    def stop(self) -> None:
        """Returns when no process and no file of the cluster is left."""
        self.process.terminate()
        self.process.wait(30.0)
        shutil.rmtree(self.temp_path, ignore_errors=True)

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log_path.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "deploy.process_reaper", *self._command],
                env=self.env,
                # Ray adds its working directory to the import path of each worker.
                cwd=self.temp_path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def free_ports(count: int) -> list[int]:
    """Different TCP ports on which no process listens now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def _host_address() -> str:
    """The address that Ray finds for this host, in the same way; sends no packet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 80))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
