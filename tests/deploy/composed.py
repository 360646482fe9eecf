"""docker-compose.yml without Docker: the commands of its services as processes of this machine.

Hosts become 127.0.0.1, ports become free ones, folders of a container become temporary ones.
Commands, environments and health checks are otherwise those of the file.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psutil
import yaml

from deploy.make_secrets import make_secrets
from deploy.ray_head import free_ports

REPOSITORY = Path(__file__).parents[2]

_HOSTS = re.compile(r"\b(?:postgres|api|ray-head)(?=:\d)|\b0\.0\.0\.0\b")
_DEFAULTS = re.compile(r"\$\{\w+:-([^}]*)\}")
_DURATION = re.compile(r"(\d+)s")
# Of each Ray node. Every container has it; here two nodes share a machine.
_AGENT_PORT = 52365
_START_SECONDS = 120.0
# Each health check starts a process: more of them would take the processors from the services.
_HEALTH_POLL_SECONDS = 1.0


def compose_file() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    return loaded


def with_defaults(text: str) -> str:
    """The text as Compose reads it when the environment sets no variable."""
    return _DEFAULTS.sub(r"\1", text)


@dataclass(frozen=True)
class Mount:
    """A volume of a service; None as `source`: an anonymous one."""

    source: str | None
    target: str
    is_writable: bool


def find_mounts(service: dict[str, Any]) -> list[Mount]:
    mounts = []
    for volume in service.get("volumes", ()):
        parts = with_defaults(volume).split(":")
        if len(parts) == 1:
            mounts.append(Mount(None, parts[0], is_writable=True))
        else:
            source, target, *options = parts
            mounts.append(Mount(source, target, is_writable="ro" not in options))
    return mounts


class ComposedServices:
    """The services except PostgreSQL, which already runs. `with` stops what was started."""

    def __init__(self, *, postgres_port: int, postgres_binaries: Path) -> None:
        self.services: dict[str, Any] = compose_file()["services"]
        # It contains Ray's sockets, and the path of a socket has at most 107 bytes.
        self.path = Path(tempfile.mkdtemp(prefix="rc", dir="/tmp"))
        api, gcs, dashboard, head_agent, worker_agent = free_ports(5)
        self.ports = {5432: postgres_port, 8000: api, 6379: gcs, 8265: dashboard}
        self._agents = {"ray-head": head_agent, "ray-worker": worker_agent}
        self._binaries = postgres_binaries
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._done: set[str] = {"postgres"}
        make_secrets(self.path / "secrets")
        url = self.path / "secrets" / "resnetd_database_url"
        url.chmod(0o600)
        url.write_text(self.translated("postgres", url.read_text()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for reaper in self._running.values():
            reaper.terminate()
        for reaper in self._running.values():
            reaper.wait(30.0)
        shutil.rmtree(self.path)

    def secret(self, name: str) -> str:
        return (self.path / "secrets" / name).read_text().strip()

    def translated(self, service: str, text: str) -> str:
        """A text of the compose file with the hosts, ports and folders of this machine."""
        text = _HOSTS.sub("127.0.0.1", with_defaults(text))
        for inside, outside in (
            ("/run/secrets", self.path / "secrets"),
            ("/var/lib/resnetd", self.path / "var"),
            ("/opt/resnetd", REPOSITORY / "deploy"),
        ):
            text = text.replace(inside, str(outside))
        ports = {**self.ports, _AGENT_PORT: self._agents.get(service, 0)}
        known = "|".join(map(str, ports))
        return re.sub(rf"(?<!\d)({known})(?!\d)", lambda found: str(ports[int(found[1])]), text)

    def up(self, name: str) -> None:
        """Starts the service after its dependencies, each once it meets its condition."""
        if name in self._done:
            return
        service = self.services[name]
        for dependency in service.get("depends_on", {}):
            self.up(dependency)
        command = [self.translated(name, argument) for argument in service["command"]]
        home = self.path / "home" / name
        home.mkdir(parents=True)
        with (self.path / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "deploy.process_reaper", *command],
                env=self._env(name),
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._running[name] = process
        if "healthcheck" in service:
            self._wait_until_healthy(name)
        else:
            assert process.wait(_START_SECONDS) == 0, self.log(name)
            del self._running[name]
        self._done.add(name)

    def stop(self) -> None:
        """Stops as `docker compose stop` does: SIGTERM to each service before its dependencies.

        TimeoutExpired when a service needs more than its grace period.
        """
        for name in reversed(list(self._running)):
            reaper = self._running.pop(name)
            found = _DURATION.fullmatch(self.services[name]["stop_grace_period"])
            assert found is not None
            psutil.Process(reaper.pid).children()[0].send_signal(signal.SIGTERM)
            try:
                reaper.wait(float(found[1]))
            finally:
                reaper.terminate()
                reaper.wait(30.0)

    def is_healthy(self, name: str) -> bool:
        """Runs the service's health check."""
        kind, *arguments = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        command = [self.translated(name, argument) for argument in arguments]
        completed = subprocess.run(
            [shutil.which(command[0], path=self._env(name)["PATH"]) or command[0], *command[1:]],
            env=self._env(name),
            cwd="/",
            capture_output=True,
            check=False,
        )
        return completed.returncode == 0

    def log(self, name: str) -> str:
        return (self.path / f"{name}.log").read_text()[-4000:]

    def processes(self) -> list[psutil.Process]:
        """All processes of this machine that name the deployment's folder in their command line."""
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(str(self.path) in argument for argument in process.info["cmdline"] or ())
        ]

    def _wait_until_healthy(self, name: str) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            assert self._running[name].poll() is None, f"{name} ended:\n{self.log(name)}"
            if self.is_healthy(name):
                return
            time.sleep(_HEALTH_POLL_SECONDS)
        raise AssertionError(f"{name} is not healthy:\n{self.log(name)}")

    def _env(self, name: str) -> dict[str, str]:
        """The container's environment; this process's own is not inherited."""
        environment = self.services[name].get("environment", {})
        return {
            "PATH": f"{Path(sys.executable).parent}:{self._binaries}:{os.defpath}",
            "HOME": str(self.path / "home" / name),
            "LANG": "C.UTF-8",
            "RESNETD_SECRETS_DIR": str(self.path / "secrets"),
            "RAY_TMPDIR": str(self.path),
            **{
                key: self.translated(name, str(value))
                for key, value in environment.items()
                if value is not None
            },
        }
