"""Results of a benchmark: a printed table, and build/bench/NAME.json for programs."""

import json
import os
import platform
import subprocess
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table

_PACKAGES = ("ray", "torch", "fastapi", "sqlalchemy")


@dataclass(frozen=True)
class Result:
    """One measured quantity of this service, and of a peer when there is one."""

    name: str
    unit: str
    ours: float
    peer: float | None = None
    is_higher_better: bool = False

    @property
    def ratio(self) -> float | None:
        """Above 1 when this service is better than the peer."""
        if self.peer is None:
            return None
        return self.ours / self.peer if self.is_higher_better else self.peer / self.ours


def write_results(benchmark: str, results: list[Result], *, gpu: str | None = None) -> None:
    """Prints the table and writes the file, with hardware, package versions and commit."""
    table = Table("measurement", "unit", title=benchmark)
    for column in ("ours", "peer", "ratio"):
        table.add_column(column, justify="right")
    for result in results:
        numbers = (result.ours, result.peer, result.ratio)
        table.add_row(result.name, result.unit, *(_format(number) for number in numbers))
    Console(width=120).print(table)
    hardware = [f"{len(os.sched_getaffinity(0))} cores", _processor()]
    document = {
        "benchmark": benchmark,
        "commit": _commit(),
        "hardware": ", ".join([*hardware, gpu] if gpu else hardware),
        "versions": {"python": platform.python_version()} | _versions(),
        "results": [asdict(result) | {"ratio": result.ratio} for result in results],
    }
    path = Path("build/bench") / f"{benchmark}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def _versions() -> dict[str, str]:
    """Of installed packages: a machine with a GPU may have torch only."""
    found = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _format(number: float | None) -> str:
    return "" if number is None else f"{number:,.2f}"


def _commit() -> str:
    completed = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return completed.stdout.strip() or "unknown"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
