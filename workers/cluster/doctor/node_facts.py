"""What the checks know of a machine. Collected on it, without Ray, torch or a database."""

import fcntl
import hashlib
import os
import platform
import shutil
import socket
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib import metadata
from pathlib import Path

import httpx

from service.catalog import uploads
from service.catalog.code_version import training_code_sha256

_API_TIMEOUT_SECONDS = 5.0
_DIGEST_CHARACTERS = 12
# ioctl(2): the IPv4 address of an interface, in a struct ifreq.
_SIOCGIFADDR = 0x8915
_IFREQ_ADDRESS = slice(20, 24)


@dataclass(frozen=True)
class FolderFacts:
    """The files of a dataset; `digest` is of their names and sizes."""

    num_files: int
    num_bytes: int
    digest: str


@dataclass(frozen=True)
class ApiFacts:
    """How the machine reaches the API. `clock_seconds`: the API's clock minus the machine's.

    HTTP states times in seconds, and uvicorn updates its own once a second.
    """

    error: str | None = None
    clock_seconds: float | None = None


@dataclass(frozen=True)
class DiskFacts:
    free_bytes: int = 0
    error: str | None = None


@dataclass(frozen=True)
class NetworkFacts:
    """Addresses are IPv4.

    `route_address`: of this machine, from which packets to the head leave. `name_address`: what the
    host name resolves to, where gloo listens if GLOO_SOCKET_IFNAME is not set.
    """

    route_address: str | None
    name_address: str | None
    interfaces: Mapping[str, str]
    gloo_interface: str | None


@dataclass(frozen=True)
class NodeFacts:
    """`address`: as Ray has it; `datasets`: by name, None where the folder cannot be read.

    `versions`: by package; one that is not installed is left out.
    """

    address: str
    trains: bool
    versions: Mapping[str, str]
    api: ApiFacts
    work_disk: DiskFacts
    network: NetworkFacts
    datasets: Mapping[str, FolderFacts] | None
    ray_auth_mode: str | None


def collect(
    *, address: str, head_address: str, trains: bool, api_url: str, data_dir: Path, work_dir: Path
) -> NodeFacts:
    return NodeFacts(
        address=address,
        trains=trains,
        versions=read_versions(),
        api=ask_api(api_url),
        work_disk=measure_disk(work_dir),
        network=NetworkFacts(
            route_address=_find_route_address(head_address),
            name_address=_find_name_address(),
            interfaces=_list_interfaces(),
            gloo_interface=os.environ.get("GLOO_SOCKET_IFNAME") or None,
        ),
        datasets=list_datasets(data_dir) if trains else None,
        ray_auth_mode=os.environ.get("RAY_AUTH_MODE") or None,
    )


def read_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("ray", "torch"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    # The number stays the same between releases; the code does not.
    versions["resnetd"] = training_code_sha256()[:_DIGEST_CHARACTERS]
    return versions


def ask_api(api_url: str) -> ApiFacts:
    try:
        before = time.time()
        response = httpx.get(
            f"{api_url}/v1/health", timeout=_API_TIMEOUT_SECONDS, trust_env=False
        ).raise_for_status()
        middle = before + (time.time() - before) / 2
    except httpx.HTTPStatusError as error:
        return ApiFacts(error=f"status {error.response.status_code}")
    except httpx.HTTPError as error:
        return ApiFacts(error=f"{type(error).__name__} {error}".strip())
    try:
        stated = parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return ApiFacts()
    return ApiFacts(clock_seconds=stated + 0.5 - middle)


def measure_disk(work_dir: Path) -> DiskFacts:
    """Of the directory, which is created if it does not exist: attempts do so, too."""
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=work_dir):
            return DiskFacts(free_bytes=shutil.disk_usage(work_dir).free)
    except OSError as error:
        return DiskFacts(error=error.strerror or str(error))


def list_datasets(data_dir: Path) -> dict[str, FolderFacts] | None:
    """The folders in the data directory that each node needs a copy of.

    Without uploads, which nodes fetch, and hidden ones: caches and unfinished uploads.
    """
    try:
        folders = [entry for entry in os.scandir(data_dir) if entry.is_dir()]
        return {
            folder.name: _summarize(folder.path)
            for folder in folders
            if not folder.name.startswith(".") and uploads.find_upload(Path(folder.path)) is None
        }
    except OSError:
        return None


def _summarize(folder: str) -> FolderFacts:
    sizes = dict(_walk(folder, ""))
    digest = hashlib.sha256()
    for name, size in sorted(sizes.items()):
        digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
    return FolderFacts(len(sizes), sum(sizes.values()), digest.hexdigest()[:_DIGEST_CHARACTERS])


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, int]]:
    """The files with their sizes; hidden ones are no images."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            else:
                yield f"{prefix}{entry.name}", entry.stat().st_size


def _list_interfaces() -> dict[str, str]:
    """The interfaces that have an IPv4 address."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode())
            try:
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
            except OSError:  # without an address
                continue
            found[name] = socket.inet_ntoa(answer[_IFREQ_ADDRESS])
    return found


def _find_route_address(host: str) -> str | None:
    """Sends no packet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _find_name_address() -> str | None:
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return None
