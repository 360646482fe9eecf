"""A Docker engine for tests, in a network namespace of its own.

The bridges and the packet filter of its containers are in that namespace, so those of this machine
stay as they are. Images and the build cache are kept between runs, in ~/.cache/resnetd-containers.

    10.78.0.1      the engine; ports of containers are published there
    10.78.0.254    this process

Needs root, and on Debian 13 the packages docker.io, docker-cli, docker-compose, docker-buildx,
debootstrap, iproute2, iptables, slirp4netns.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

CACHE = Path.home() / ".cache" / "resnetd-containers"
ADDRESS = "10.78.0.1"
OWN_ADDRESS = "10.78.0.254"
_NAMESPACE = "rdc"
_NETNS = Path("/run/netns")
# slirp4netns, which forwards to the internet what the namespace sends, answers names there.
_NAMESERVER = "10.0.2.3"
_COMMANDS = ("docker", "dockerd", "containerd", "debootstrap", "ip", "iptables", "nsenter")
_START_SECONDS = 60.0
_STOP_SECONDS = 60.0


def find_obstacle() -> str | None:
    """Why this machine cannot run containers; None where it can."""
    if os.getuid() != 0:
        return "a Docker engine needs root"
    missing = [name for name in (*_COMMANDS, "slirp4netns") if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    for plugin in ("compose", "buildx"):
        found = subprocess.run(["docker", plugin, "version"], capture_output=True, check=False)
        if found.returncode != 0:
            return f"not installed: docker {plugin}"
    if not Path("/dev/net/tun").exists():
        return "/dev/net/tun does not exist"
    return None


@dataclass
class Engine:
    """A running engine."""

    socket: Path
    log_path: Path

    @property
    def env(self) -> dict[str, str]:
        """Of Docker's commands. They read no configuration of the user, such as a proxy."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.socket.parent),
            "LANG": "C.UTF-8",
            "DOCKER_HOST": f"unix://{self.socket}",
        }

    def docker(
        self,
        *arguments: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout_seconds: float = 120.0,
    ) -> str:
        """The command's standard output. AssertionError with its standard error when it fails."""
        completed = subprocess.run(
            ["docker", *arguments],
            cwd=cwd,
            env=self.env | dict(env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        assert completed.returncode == 0, (
            f"docker {' '.join(arguments)}: {completed.returncode}\n"
            f"{completed.stdout[-4000:]}\n{completed.stderr[-8000:]}"
        )
        return completed.stdout

    def is_up(self) -> bool:
        asked = subprocess.run(
            ["docker", "version"], env=self.env, capture_output=True, check=False
        )
        return asked.returncode == 0

    def has_image(self, name: str) -> bool:
        return bool(self.docker("images", "--quiet", name).strip())

    def remove_containers(self) -> None:
        """Also their volumes and networks; images stay."""
        containers = self.docker("ps", "--all", "--quiet").split()
        if containers:
            self.docker("rm", "--force", "--volumes", *containers)
        self.docker("volume", "prune", "--all", "--force")
        self.docker("network", "prune", "--force")
        # Those that a build has replaced.
        self.docker("image", "prune", "--force")


@contextmanager
def running_engine() -> Iterator[Engine]:
    """Waits for the engine of another test process."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        lock = stack.enter_context((CACHE / "lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        _delete_network()
        stack.callback(_delete_network)
        _make_network()
        stack.enter_context(_connected_to_the_internet())
        yield stack.enter_context(_running_dockerd())


def _make_network() -> None:
    _ip("netns", "add", _NAMESPACE)
    _ip("-n", _NAMESPACE, "link", "set", "lo", "up")
    _ip("link", "add", _NAMESPACE, "type", "veth", "peer", "eth0", "netns", _NAMESPACE)
    _ip("address", "add", f"{OWN_ADDRESS}/24", "dev", _NAMESPACE)
    _ip("link", "set", _NAMESPACE, "up")
    _ip("-n", _NAMESPACE, "address", "add", f"{ADDRESS}/24", "dev", "eth0")
    _ip("-n", _NAMESPACE, "link", "set", "eth0", "up")


def _delete_network() -> None:
    """With the processes of an engine whose test process was killed, each by its id."""
    if not (_NETNS / _NAMESPACE).exists():
        return
    listed = subprocess.run(
        ["ip", "netns", "pids", _NAMESPACE], capture_output=True, text=True, check=False
    )
    for pid in listed.stdout.split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _ip("netns", "delete", _NAMESPACE)
    # The kernel deletes a namespace, and with it the other end, some time later.
    subprocess.run(["ip", "link", "delete", _NAMESPACE], capture_output=True, check=False)


@contextmanager
def _connected_to_the_internet() -> Iterator[None]:
    """For the builds, without a rule in the packet filter of this machine."""
    ready, ready_in_child = os.pipe()
    process = subprocess.Popen(
        [
            *("slirp4netns", "--configure", "--mtu=1400", "--disable-host-loopback"),
            *(f"--ready-fd={ready_in_child}", "--netns-type=path"),
            *(str(_NETNS / _NAMESPACE), "tap0"),
        ],
        pass_fds=[ready_in_child],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(ready_in_child)
    try:
        assert os.read(ready, 1) == b"1", "slirp4netns did not start"
        yield
    finally:
        os.close(ready)
        process.terminate()
        process.wait(_STOP_SECONDS)


@contextmanager
def _running_dockerd() -> Iterator[Engine]:
    engine = Engine(socket=CACHE / "docker.sock", log_path=CACHE / "dockerd.log")
    with engine.log_path.open("wb") as log:
        process = subprocess.Popen(
            [
                *("nsenter", f"--net={_NETNS / _NAMESPACE}", "dockerd"),
                *("--host", f"unix://{engine.socket}", "--pidfile", str(CACHE / "dockerd.pid")),
                *("--data-root", str(CACHE / "data"), "--exec-root", str(CACHE / "exec")),
                *("--dns", _NAMESERVER, "--storage-driver", "overlay2"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not engine.is_up():
            assert process.poll() is None, engine.log_path.read_text()[-4000:]
            assert time.monotonic() < deadline, engine.log_path.read_text()[-4000:]
            time.sleep(0.1)
        engine.remove_containers()
        yield engine
        engine.remove_containers()
    finally:
        process.terminate()
        process.wait(_STOP_SECONDS)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
