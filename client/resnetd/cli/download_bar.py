"""The bar of a download, on standard error of a terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from resnetd.downloads import OnProgress


@contextmanager
def show_download(label: str) -> Iterator[OnProgress]:
    with Progress(
        *Progress.get_default_columns(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    ) as bars:
        task = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def measure(saved: Path) -> int:
    """The bytes of what was downloaded: a file, or a folder of files."""
    files = saved.iterdir() if saved.is_dir() else [saved]
    return sum(file.stat().st_size for file in files)
