"""Machines for tests: network namespaces on a bridge, each with its own processes and files.

    10.77.N.1  service   API, dispatcher, PostgreSQL
    10.77.N.2  head      Ray's head, which trains nothing
    10.77.N.3  left      a Ray node with one CPU
    10.77.N.4  right     another
    10.77.N.254          this process

Needs root. The namespaces of a test process that was killed are deleted by the next one.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

import resnetd
from service.errors import ClusterUnavailable
from tests.support.postgres import postgres_server
from tests.support.systemd import Unit, read_unit
from workers.cluster.ray_jobs import RayJobClient

NODES = ("left", "right")
_HOSTS = ("service", "head", *NODES)
_PREFIX = "rdh"
_NETNS = Path("/run/netns")
_START_SECONDS = 120.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.25

# `ip netns exec` gives its command mounts of its own: each machine has its own data and work.
_WITH_OWN_FILES = """
mount --bind "$1/data" "$2/data" && mount --bind "$1/work" "$2/work" &&
mount --bind "$2/hosts" /etc/hosts && mount --bind "$2/resolv.conf" /etc/resolv.conf &&
cd "$1" && shift 2 && exec "$@"
"""


def find_obstacle() -> str | None:
    """Why this machine cannot have network namespaces; None where it can."""
    if os.getuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need the command ip: apt install iproute2"
    probe = f"{_PREFIX}-{os.getpid()}-probe"
    made = subprocess.run(
        ["ip", "netns", "add", probe], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        return f"network namespaces are not permitted: {made.stderr.strip()}"
    bridged = subprocess.run(
        ["ip", "-n", probe, "link", "add", "bridge", "type", "bridge"],
        capture_output=True,
        text=True,
        check=False,
    )
    _ip("netns", "delete", probe)
    return None if bridged.returncode == 0 else f"no bridges: {bridged.stderr.strip()}"


@dataclass
class Host:
    """A machine, whose processes an init system starts again when they exit."""

    name: str
    address: str
    namespace: str
    switch: str
    path: Path
    shared_path: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _services: dict[str, tuple[Callable[[], list[str]], Mapping[str, str]]] = field(
        default_factory=dict
    )

    def run(self, *command: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._entry(), *command], env=env, capture_output=True, text=True, check=False
        )

    def start(
        self, name: str, make_command: Callable[[], list[str]], env: Mapping[str, str]
    ) -> None:
        """Each start gets a new command."""
        self._services[name] = (make_command, env)
        self._launch(name)

    def restart_exited(self) -> None:
        for name, process in self.processes.items():
            if process.poll() is not None:
                self._launch(name)

    def stop(self) -> None:
        """All processes are killed at once, with those that they started."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(_STOP_SECONDS)
        self.processes.clear()

    def kill(self) -> None:
        """Kills all its processes at once; the kernel closes their connections."""
        _kill_all(self.namespace)
        for process in self.processes.values():
            process.wait(_STOP_SECONDS)

    def power_off(self) -> None:
        """No packet leaves it any more, not even those that close its connections."""
        self.unplug()
        self.kill()
        self.processes.clear()

    def power_on(self) -> None:
        self.plug()
        for name in self._services:
            self._launch(name)

    def unplug(self) -> None:
        """Takes the cable out of the switch: packets are lost, no connection is closed."""
        _ip("-n", self.switch, "link", "set", self.name, "down")

    def plug(self) -> None:
        _ip("-n", self.switch, "link", "set", self.name, "up")

    def find_process(self, program: str) -> int:
        """The process id of the only one of its processes whose program has this name."""
        (pid,) = (
            pid
            for pid in _list_pids(self.namespace)
            if Path(psutil.Process(pid).cmdline()[0]).name == program
        )
        return pid

    def has_process(self, pid: int) -> bool:
        namespace = (_NETNS / self.namespace).stat().st_ino
        return Path(f"/proc/{pid}/ns/net").stat().st_ino == namespace

    def log(self) -> str:
        """The ends of the logs of all its processes."""
        return "\n".join(
            f"--- {self.name}: {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted(self.path.glob("*.log"))
        )

    def _launch(self, name: str) -> None:
        make_command, env = self._services[name]
        with (self.path / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*self._entry(), sys.executable, "-m", "deploy.process_reaper", *make_command()],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _entry(self) -> list[str]:
        return [
            *("ip", "netns", "exec", self.namespace, "sh", "-c", _WITH_OWN_FILES, "sh"),
            *(str(self.path), str(self.shared_path)),
        ]


class Network:
    """The machines, the service on them, and a Ray cluster; `running_network` stops all."""

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self._names = f"{_PREFIX}-{os.getpid()}"
        self.switch = f"{self._names}-switch"
        self._subnet = f"10.77.{number}"
        # Of all machines, with other files on each.
        shared_path = path / "var"
        self.hosts = {
            name: Host(
                name=name,
                address=f"{self._subnet}.{position}",
                namespace=f"{self._names}-{name}",
                switch=self.switch,
                path=path / name,
                shared_path=shared_path,
            )
            for position, name in enumerate(_HOSTS, start=1)
        }
        self.ray_token = secrets.token_hex(32)
        self.url = f"http://{self.hosts['service'].address}:8000"
        self.ray_url = f"http://{self.hosts['head'].address}:8265"
        self._ray_address = f"{self.hosts['head'].address}:6379"
        self._ray_starts = 0
        self._settings = {
            "RESNETD_VAR_DIR": str(path / "service"),
            "RESNETD_DATA_DIR": str(shared_path / "data"),
            "RESNETD_WORK_DIR": str(shared_path / "work"),
            "RESNETD_API_HOST": self.hosts["service"].address,
            "RESNETD_API_URL": self.url,
            "RESNETD_RAY_URL": self.ray_url,
            "RESNETD_RAY_TOKEN": self.ray_token,
            # Each attempt has its own runner, and places its ranks anew.
            "RESNETD_WARM_RUNNERS": "0",
            "RESNETD_POLL_INTERVAL_SECONDS": "0.5",
        }

    @property
    def service(self) -> Host:
        return self.hosts["service"]

    @property
    def service_env(self) -> dict[str, str]:
        return self._env() | self._settings

    def client(self) -> resnetd.Client:
        # Longer than a machine is cut off.
        return resnetd.Client(url=self.url, token=self._token, retry=resnetd.Retry(attempts=60))

    def call(self, method: str, path: str, *, content: bytes) -> httpx.Response:
        """A request that the client has no method for."""
        return httpx.request(
            method,
            f"{self.url}{path}",
            content=content,
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=60.0,
            trust_env=False,
        )

    @property
    def _token(self) -> str:
        return (self.path / "service" / "token").read_text().strip()

    def connect(self) -> None:
        """Makes the namespaces and their links."""
        _ip("netns", "add", self.switch)
        _ip("-n", self.switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self.switch, "link", "set", "bridge", "up")
        for host in self.hosts.values():
            _ip("netns", "add", host.namespace)
            _ip("-n", host.namespace, "link", "set", "lo", "up")
            self._connect(host.namespace, "eth0", host.name, host.address)
            # Ray finds its own address by the route to the internet.
            _ip("-n", host.namespace, "route", "add", "default", "via", f"{self._subnet}.254")
        self._connect(None, f"{_PREFIX}{os.getpid()}", "test", f"{self._subnet}.254")
        for name in ("var", *_HOSTS):
            (self.path / name / "data").mkdir(parents=True)
            (self.path / name / "work").mkdir()
        # torch asks for the name of each peer, and waits for seconds where no server answers.
        names = [f"{host.address} {host.name}" for host in self.hosts.values()]
        lines = ["127.0.0.1 localhost", f"127.0.1.1 {socket.gethostname()}", *names, ""]
        (self.path / "var" / "hosts").write_text("\n".join(lines))
        (self.path / "var" / "resolv.conf").touch()

    def start_ray(self) -> None:
        """Returns at once."""
        for name in ("head", *NODES):
            self.hosts[name].start("ray", self._ray_command(name), self._ray_env(name))

    def start_service(self, database_url: str) -> None:
        self._settings["RESNETD_DATABASE_URL"] = database_url
        migrated = self.service.run(
            sys.executable, "-m", "service", "migrate", env=self.service_env
        )
        assert migrated.returncode == 0, migrated.stderr
        self.service.start("api", lambda: [sys.executable, "-m", "api"], self.service_env)
        self.service.start(
            "dispatcher",
            lambda: [sys.executable, "-m", "workers", "dispatcher"],
            self.service_env,
        )

    def wait_until_ready(self) -> None:
        self.wait_until(self._is_api_up, within_seconds=_START_SECONDS)
        self.wait_until(lambda: self.count_nodes() == len(NODES) + 1, within_seconds=_START_SECONDS)
        with self.client() as client:
            self.wait_until(
                lambda: client.cluster().document["cpus"] == len(NODES),
                within_seconds=_START_SECONDS,
            )

    def count_nodes(self) -> int:
        """The nodes that Ray counts as alive; 0 where Ray does not respond."""
        with RayJobClient(url=self.ray_url, token=self.ray_token) as ray:
            try:
                return len(ray.read_resources().nodes)
            except ClusterUnavailable:
                return 0

    def wait_until(self, condition: Callable[[], bool], *, within_seconds: float) -> None:
        """Meanwhile starts processes that have exited again, as the init system of each machine."""
        deadline = time.monotonic() + within_seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {within_seconds} s\n{self.logs()}"
            for host in self.hosts.values():
                host.restart_exited()
            time.sleep(_POLL_SECONDS)

    def host_of(self, pid: int) -> Host:
        return next(host for host in self.hosts.values() if host.has_process(pid))

    def logs(self) -> str:
        return "\n".join(host.log() for host in self.hosts.values())

    def close(self) -> None:
        for host in reversed(self.hosts.values()):
            host.stop()
        _delete_namespaces(self._names)
        shutil.rmtree(self.path, ignore_errors=True)

    def _connect(self, namespace: str | None, name: str, port: str, address: str) -> None:
        where = () if namespace is None else ("-n", namespace)
        _ip(*where, "link", "add", name, "type", "veth", "peer", port, "netns", self.switch)
        _ip(*where, "address", "add", f"{address}/24", "dev", name)
        _ip(*where, "link", "set", name, "up")
        _ip("-n", self.switch, "link", "set", port, "master", "bridge", "up")

    def _ray_command(self, name: str) -> Callable[[], list[str]]:
        """That of its unit, with what fits a node into this machine."""
        unit, env = _unit_of(name), self._ray_env(name)

        def make() -> list[str]:
            self._ray_starts += 1
            # Short: it contains Ray's sockets. New: the old one has those of the process before.
            folder = self.hosts[name].path / f"r{self._ray_starts}"
            sizes = ["--object-store-memory=80000000", f"--temp-dir={folder}"]
            trains = [] if name == "head" else ["--num-cpus=1", "--num-gpus=0"]
            return [*unit.make_command(env), *sizes, *trains]

        return make

    def _ray_env(self, name: str) -> dict[str, str]:
        host = self.hosts[name]
        # What /etc/resnetd/env sets: the host name resolves to the loopback, as Debian's installer
        # writes it.
        configured = {
            "ADDRESS": host.address,
            "RAY_ADDRESS": self._ray_address,
            "RAY_AUTH_TOKEN": self.ray_token,
            "GLOO_SOCKET_IFNAME": "eth0",
        }
        unit = _unit_of(name)
        return (
            self._env()
            | unit.environment
            | configured
            | {
                "PATH": self._env()["PATH"],
                "HOME": str(host.path),
                "RAY_enable_metrics_collection": "0",
            }
        )

    def _env(self) -> dict[str, str]:
        """Nothing of Ray's or ours is inherited, and no file is in the home of the user."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RAY_", "RESNETD_", "PYTHONDONTWRITEBYTECODE"))
        }
        path = f"{Path(sys.executable).parent}:{inherited.get('PATH', '')}"
        return inherited | {"PATH": path, "HOME": str(self.path), "OMP_NUM_THREADS": "1"}

    def _is_api_up(self) -> bool:
        try:
            return httpx.get(f"{self.url}/v1/health", timeout=5.0, trust_env=False).is_success
        except httpx.TransportError:
            return False


@contextmanager
def running_network() -> Iterator[Network]:
    """The service and a Ray cluster on four machines."""
    _delete_abandoned()
    # Short: a socket of Ray is below it, and the path of a socket has at most 107 bytes.
    network = Network(Path(tempfile.mkdtemp(prefix="rh", dir="/tmp")), os.getpid() % 250)
    with ExitStack() as stack:
        stack.callback(network.close)
        network.connect()
        network.start_ray()
        postgres = stack.enter_context(postgres_server(namespace=network.service.namespace))
        network.start_service(postgres.url)
        network.wait_until_ready()
        yield network


def _delete_abandoned() -> None:
    """The namespaces of test processes that no longer exist."""
    owners = {path.name.split("-")[1] for path in _NETNS.glob(f"{_PREFIX}-*-*")}
    for pid in owners:
        if not Path(f"/proc/{pid}").exists():
            _delete_namespaces(f"{_PREFIX}-{pid}")


def _delete_namespaces(names: str) -> None:
    """With the processes that are left in them, each by its id; their links go with them."""
    for path in _NETNS.glob(f"{names}-*"):
        _kill_all(path.name)
        _ip("netns", "delete", path.name)
    # The kernel deletes a namespace, and with it the other end, some time later.
    link = names.replace("-", "")
    subprocess.run(["ip", "link", "delete", link], capture_output=True, check=False)


def _kill_all(namespace: str) -> None:
    """Each process by its id, also those that started meanwhile."""
    deadline = time.monotonic() + _STOP_SECONDS
    while pids := _list_pids(namespace):
        assert time.monotonic() < deadline, f"processes {pids} do not end"
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _list_pids(namespace: str) -> list[int]:
    listed = subprocess.run(
        ["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in listed.stdout.split()]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def _unit_of(name: str) -> Unit:
    return read_unit("resnetd-ray-head" if name == "head" else "resnetd-ray-node")
