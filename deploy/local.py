"""The service on one machine without Docker: a Ray head, the API and the dispatcher.

`python -m deploy.local` runs it in the foreground until Ctrl-C, with the entry points and the
settings of docker-compose.yml. A process manager like honcho would not shorten this: it stops the
processes that it started, but Ray's leave their parents (deploy.process_reaper stops those), and
tests start and kill each process by itself.
"""

import argparse
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import IO, Self

import httpx

from deploy.process_reaper import terminate_with_parent
from deploy.ray_head import START_SECONDS, RayHead, free_ports

_STOP_SECONDS = 15.0
_POLL_SECONDS = 0.1


class StartError(Exception):
    """The service cannot start; the message says why."""


class LocalService:
    """Starts and stops the service's processes, all at once or each by itself.

    `settings` are RESNETD_ variables. Logs are files in `logs_path`, or this process's standard
    error. A given `ray` head is used and continues afterwards; by default the service starts one,
    with `num_cpus` CPUs or all that this process may use.
    """

    def __init__(
        self,
        var_path: Path,
        *,
        api_port: int | None = None,
        num_cpus: int | None = None,
        settings: Mapping[str, str] | None = None,
        logs_path: Path | None = None,
        ray: RayHead | None = None,
    ) -> None:
        self.var_path = var_path.absolute()
        self.api_port = api_port or free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.api_port}"
        self.token_path = self.var_path / "token"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._num_cpus = num_cpus or len(os.sched_getaffinity(0))
        self._logs_path = logs_path
        self._settings = dict(settings or {})
        self._lock: IO[str] | None = None
        self._own_ray: RayHead | None = None
        self._given_ray = ray

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def token(self) -> str:
        return self.token_path.read_text().strip()

    @property
    def ray(self) -> RayHead | None:
        return self._given_ray or self._own_ray

    @property
    def env(self) -> dict[str, str]:
        """The environment of the API and the dispatcher."""
        env = {
            **os.environ,
            "RESNETD_VAR_DIR": str(self.var_path),
            "RESNETD_API_HOST": "127.0.0.1",
            "RESNETD_API_PORT": str(self.api_port),
            "RESNETD_API_URL": self.url,
            **self._settings,
        }
        if self.ray is not None:
            env |= {"RESNETD_RAY_URL": self.ray.url, "RESNETD_RAY_TOKEN": self.ray.token}
        return env

    def start(self) -> None:
        """Returns once jobs can be submitted and run. StartError when that fails."""
        self._lock_var()
        self._require_free_port()
        # Ray takes the longest: the others start meanwhile.
        if self._given_ray is None:
            self._own_ray = RayHead(num_cpus=self._num_cpus, env=os.environ)
        self._migrate()
        self.start_process("api")
        self.wait_for_api()
        if self._own_ray is not None:
            try:
                self._own_ray.wait()
            except RuntimeError as error:
                raise StartError(str(error)) from error
        self.start_process("dispatcher")
        self._wait_for_cluster()

    def stop(self) -> None:
        """Stops each process before those that it needs; returns when no process is left."""
        # A second Ctrl-C must not interrupt this.
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for name in ("dispatcher", "api"):
            self.stop_process(name)
        if self._own_ray is not None:
            self._own_ray.stop()
            self._own_ray = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        signal.signal(signal.SIGINT, previous)

    def start_process(self, name: str) -> None:
        """`api` or `dispatcher`."""
        assert name not in self.processes
        module = {"api": ("api",), "dispatcher": ("workers", "dispatcher")}[name]
        with self._log(name) as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", *module],
                env=self.env,
                cwd=self.var_path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in the terminal reaches this process only, which stops the others in order.
                start_new_session=True,
                preexec_fn=terminate_with_parent,  # noqa: PLW1509 - takes no lock
            )

    def stop_process(self, name: str, *, kill: bool = False) -> None:
        process = self.processes.pop(name, None)
        if process is None:
            return
        process.kill() if kill else process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def wait_for_api(self) -> None:
        deadline = time.monotonic() + 60.0
        while time.monotonic() < deadline:
            process = self.processes["api"]
            if process.poll() is not None:
                raise StartError(f"the API exited during its start{self._log_tail('api')}")
            try:
                if httpx.get(f"{self.url}/v1/health", timeout=5.0, trust_env=False).is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(_POLL_SECONDS)
        raise StartError(f"the API does not respond at {self.url}{self._log_tail('api')}")

    def wait_for_exit(self) -> str:
        """The name of the process that has exited by itself, once one has."""
        while (exited := self.find_exited()) is None:
            time.sleep(0.5)
        return exited

    def find_exited(self) -> str | None:
        """The name of a process that has exited by itself, or None."""
        if self.ray is not None and self.ray.process.poll() is not None:
            return "ray"
        for name, process in self.processes.items():
            if process.poll() is not None:
                return name
        return None

    def _lock_var(self) -> None:
        try:
            self.var_path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.var_path / "lock").open("a")
            # So that the API knows which datasets there are, and refuses others.
            (self.var_path / "data").mkdir(exist_ok=True)
        except OSError as error:
            raise StartError(f"cannot write to {self.var_path}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartError(f"another resnetd already runs in {self.var_path}") from error

    def _require_free_port(self) -> None:
        """Fails before any process starts, and never takes another API for this one."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.api_port))
            except OSError as error:
                raise StartError(
                    f"port {self.api_port} is in use ({error.strerror}); choose another: PORT=8001"
                ) from error

    def _migrate(self) -> None:
        completed = subprocess.run(
            [sys.executable, "-m", "service", "migrate"],
            env=self.env,
            cwd=self.var_path,
            capture_output=True,
            text=True,
            check=False,
        )
        if completed.returncode != 0:
            raise StartError(completed.stderr.strip())

    def _wait_for_cluster(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        headers = {"Authorization": f"Bearer {self.token}"}
        while time.monotonic() < deadline:
            exited = self.find_exited()
            if exited is not None:
                raise StartError(f"{exited} exited during its start{self._log_tail(exited)}")
            response = httpx.get(f"{self.url}/v1/cluster", headers=headers, trust_env=False)
            if response.is_success and response.json()["cpus"] is not None:
                return
            time.sleep(_POLL_SECONDS)
        raise StartError(f"the dispatcher found no cluster{self._log_tail('dispatcher')}")

    def _log(self, name: str) -> IO[bytes]:
        if self._logs_path is None:
            return os.fdopen(os.dup(sys.stderr.fileno()), "wb")
        self._logs_path.mkdir(parents=True, exist_ok=True)
        return (self._logs_path / f"{name}.log").open("ab")

    def _log_tail(self, name: str) -> str:
        """The end of the process's log to append to a message, or nothing."""
        path = None if self._logs_path is None else self._logs_path / f"{name}.log"
        return f":\n{path.read_text()[-2000:].strip()}" if path and path.exists() else ""


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """A handler with which SIGTERM ends a foreground command as Ctrl-C does."""
    raise KeyboardInterrupt


def _port(text: str) -> int:
    return _parse_number(text, maximum=65535)


def _cpus(text: str) -> int:
    return _parse_number(text, maximum=100_000)


def _parse_number(text: str, *, maximum: int) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= maximum:
        raise argparse.ArgumentTypeError(f"must be 1 to {maximum}; received {text!r}")
    return int(text)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make up", description=__doc__)
    parser.add_argument(
        "--var",
        type=Path,
        default=Path("var"),
        help="the folder of the database, the artifacts and the datasets",
    )
    parser.add_argument("--port", type=_port, default=8000, help="port of the API")
    parser.add_argument("--cpus", type=_cpus, help="CPUs that jobs may use (default: all)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupt)
    service = LocalService(options.var, api_port=options.port, num_cpus=options.cpus)
    print("starting Ray, the API and the dispatcher ...", flush=True)
    try:
        with service:
            print(f"\nresnetd runs at {service.url} (documentation: {service.url}/v1/docs)")
            print(f"the token is in {service.token_path}")
            print("press Ctrl-C to stop\n", flush=True)
            exited = service.wait_for_exit()
            print(f"resnetd: {exited} exited unexpectedly; stopping", file=sys.stderr)
            return 1
    except KeyboardInterrupt:
        print("stopped")
    except StartError as error:
        print(f"resnetd: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
