"""A benchmark's result: a table for people, build/bench/NAME.json for machines."""

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
class Row:
    """`theirs` None: there is no peer. `is_more_better` says which way the ratio goes."""

    what: str
    unit: str
    ours: float
    theirs: float | None = None
    is_more_better: bool = False

    @property
    def ratio(self) -> float | None:
        """Larger than 1 where ours is better."""
        if self.theirs is None:
            return None
        return self.ours / self.theirs if self.is_more_better else self.theirs / self.ours


def publish(name: str, rows: list[Row], *, gpu: str | None = None) -> None:
    """Prints the rows and writes them, with hardware, versions and commit."""
    table = Table("what", "unit", title=name)
    for column in ("ours", "theirs", "ratio"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(row.what, row.unit, *(_figure(x) for x in (row.ours, row.theirs, row.ratio)))
    Console(width=120).print(table)
    document = {
        "name": name,
        "commit": _commit(),
        "hardware": ", ".join(
            [f"{len(os.sched_getaffinity(0))} cores", _processor(), *([gpu] if gpu else [])]
        ),
        "versions": {"python": platform.python_version()} | _versions(),
        "rows": [
            {key: value for key, value in asdict(row).items() if key != "is_more_better"}
            | {"ratio": row.ratio}
            for row in rows
        ],
    }
    path = Path("build/bench") / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def _versions() -> dict[str, str]:
    """Of what is installed: a machine with a GPU may have torch alone."""
    found = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f}"


def _commit() -> str:
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return said.stdout.strip() or "unknown"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
