"""A Ray head of our own on this machine: own ports, token and directory, and nothing left after."""

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

import httpx

START_SECONDS = 120.0
# Ray's least is 75 MiB; plain DDP puts nothing into its object store.
_OBJECT_STORE_BYTES = 80_000_000
# Without compiled bytecode each Ray process spends 3 CPU-seconds more on importing torch.
_NOT_INHERITED = {"PYTHONDONTWRITEBYTECODE"}


class RayHead:
    """Starts at once; `wait` until it answers. `env` is what belongs to this cluster.

    The head runs under deploy.process_reaper: it ends with this process, together with everything
    that it started.
    """

    def __init__(
        self,
        *,
        num_cpus: int,
        num_gpus: int | None = None,
        token: str | None = None,
        env: Mapping[str, str],
    ) -> None:
        """`num_gpus` None: those that Ray finds. `env`: the whole environment, PATH and all."""
        # Ray's sockets lie under its temp dir, and a socket's path ends at 107 bytes.
        self.temp_path = Path(tempfile.mkdtemp(prefix="rd", dir="/tmp"))
        self.token = token or secrets.token_hex(32)
        gcs, dashboard, objects, nodes, agent, agent_grpc, metrics = free_ports(7)
        self.address = f"{_host_address()}:{gcs}"
        self.url = f"http://127.0.0.1:{dashboard}"
        self.env = {
            **{name: value for name, value in env.items() if name not in _NOT_INHERITED},
            # Jobs run `python`, and it must be this one.
            "PATH": f"{Path(sys.executable).parent}:{env.get('PATH', '')}",
            # Without it, each run of Train ends 12 s late where Ray finds another cluster.
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            # Of Ray itself: nobody would fetch them, and a small machine has better to do.
            "RAY_enable_metrics_collection": "0",
            # Workers run at nice 15 otherwise, and starve beside anything else.
            "RAY_worker_niceness": "0",
            # Train's workers never match a process that was started ahead of time.
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

    def start_again(self) -> None:
        """After it has ended by itself: at the same address, with nothing of what it knew."""
        assert self.process.poll() is not None
        self.process = self._start()

    def wait(self) -> None:
        """Until the job endpoint answers. RuntimeError with Ray's log where it does not."""
        deadline = time.monotonic() + START_SECONDS
        headers = {"Authorization": f"Bearer {self.token}"}
        with httpx.Client(
            base_url=self.url, headers=headers, timeout=5.0, trust_env=False
        ) as client:
            while time.monotonic() < deadline and self.process.poll() is None:
                try:
                    # The agent behind the jobs comes up after the dashboard.
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
        """Returns when no process of the cluster and no file of it is left."""
        self.process.terminate()
        self.process.wait(30.0)
        shutil.rmtree(self.temp_path, ignore_errors=True)

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log_path.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "deploy.process_reaper", *self._command],
                env=self.env,
                # Ray puts its working directory on every worker's path.
                cwd=self.temp_path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _host_address() -> str:
    """The address that Ray takes for this host; no packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 80))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
