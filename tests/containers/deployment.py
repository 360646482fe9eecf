"""docker-compose.yml on the engine of the tests, in a copy of the checkout."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import resnetd
from tests.containers.engine import ADDRESS, CACHE, Engine
from tests.containers.images import make_base_images
from tests.deploy.composed import REPOSITORY

PORT = 8000
# Of the cluster's image, most of it for the download of torch.
_BUILD_SECONDS = 3_600.0
_UP_SECONDS = 400.0
_UP_ATTEMPTS = 3
_POLL_SECONDS = 0.25

# So that two ranks need two nodes.
_OVERRIDE = "services: {ray-worker: {cpus: 1}}\n"

# A line for each test, with the seconds that it measured, for docs/results.md.
REPORT: list[str] = []


class Deployment:
    """What the commands of docs/how-to/deploy-with-docker-compose.md make."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self.engine = engine
        self.path = path

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{PORT}"

    @property
    def token(self) -> str:
        return (self.path / "deploy" / "secrets" / "resnetd_admin_token").read_text().strip()

    def client(self) -> resnetd.Client:
        # Longer than the API needs to start again.
        return resnetd.Client(
            url=self.url, token=self.token, retry=resnetd.Retry(attempts=60, max_delay_seconds=1.0)
        )

    def compose(self, *arguments: str, timeout_seconds: float = _UP_SECONDS) -> str:
        return self.engine.docker(
            "compose", *arguments, cwd=self.path, timeout_seconds=timeout_seconds
        )

    def up(self) -> float:
        """Returns the seconds until all services are healthy.

        A node of Ray that needs more than 30 s for its start exits and is started again, but
        Compose does not wait for the second start.
        """
        started = time.monotonic()
        for _ in range(_UP_ATTEMPTS - 1):
            with suppress(AssertionError):
                self.compose("up", "--detach", "--wait")
                return time.monotonic() - started
        self.compose("up", "--detach", "--wait")
        return time.monotonic() - started

    def execute(self, service: str, *command: str, user: str | None = None) -> str:
        options = () if user is None else ("--user", user)
        return self.compose("exec", "--no-TTY", *options, service, *command)

    def execute_on_machine(self, commands: str) -> None:
        """Of a page of the documentation, as root in the checkout."""
        completed = subprocess.run(
            ["sh", "-eux", "-c", commands.replace("sudo ", "")],
            cwd=self.path,
            env=self.engine.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_UP_SECONDS,
            check=False,
        )
        assert completed.returncode == 0, completed.stdout + completed.stderr + self.logs()

    def containers(self, service: str) -> list[str]:
        """Their ids, by number."""
        return self.compose("ps", "--quiet", service).split()

    def inspect(self, container: str, template: str) -> str:
        return self.engine.docker("inspect", "--format", template, container).strip()

    def processes(self, container: str) -> list[str]:
        """Their command lines."""
        listed = self.engine.docker("top", container, "-eo", "pid,args").splitlines()[1:]
        return [line.split(maxsplit=1)[1] for line in listed]

    def kill(self, container: str) -> None:
        """Its first process, by its id on this machine: as a crash, not as `docker kill`."""
        os.kill(int(self.inspect(container, "{{.State.Pid}}")), signal.SIGKILL)

    def wait_until_healthy(self, container: str, *, restarts: int) -> None:
        """Once the engine has started it again that often."""
        expected = f"{restarts} healthy"
        self.wait_until(
            lambda: (
                self.inspect(container, "{{.RestartCount}} {{.State.Health.Status}}") == expected
            ),
            within_seconds=180.0,
        )

    def wait_until(self, condition: Callable[[], bool], *, within_seconds: float) -> None:
        deadline = time.monotonic() + within_seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {within_seconds} s\n{self.logs()}"
            time.sleep(_POLL_SECONDS)

    def logs(self) -> str:
        return self.compose("ps", "--all") + self.compose("logs", "--no-color", "--tail", "12")


@contextmanager
def running_deployment(engine: Engine, settings: Mapping[str, str]) -> Iterator[Deployment]:
    """Builds what has changed since the last run, and removes all containers and volumes."""
    started = time.monotonic()
    make_base_images(engine)
    report("base images", started)
    deployment = Deployment(engine, CACHE / "checkout")
    _copy_checkout(deployment.path)
    (deployment.path / ".env").write_text(
        "".join(f"{name}={value}\n" for name, value in settings.items())
    )
    (deployment.path / "docker-compose.override.yml").write_text(_OVERRIDE)
    subprocess.run(
        [sys.executable, "deploy/make_secrets.py"],
        cwd=deployment.path,
        check=True,
        capture_output=True,
    )
    started = time.monotonic()
    deployment.compose("build", timeout_seconds=_BUILD_SECONDS)
    report("docker compose build", started)
    try:
        REPORT.append(f"docker compose up --detach --wait: {deployment.up():.1f} s")
        yield deployment
    finally:
        deployment.compose("down", "--volumes", "--timeout", "5")
        shutil.rmtree(deployment.path)


def report(what: str, started: float) -> None:
    REPORT.append(f"{what}: {time.monotonic() - started:.1f} s")


def _copy_checkout(path: Path) -> None:
    """Without what git ignores, such as the secrets of this checkout."""
    if path.exists():
        shutil.rmtree(path)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        source = REPOSITORY / name
        if source.is_file():
            target = path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
