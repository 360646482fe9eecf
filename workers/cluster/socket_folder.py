"""Where the fork server of a runner has its socket; a killed runner's is deleted by a later one.

TMP/resnetd-runner-*/lock          locked as long as the runner lives
TMP/resnetd-runner-*/listener-*    the fork server's socket
"""

import atexit
import fcntl
import shutil
import tempfile
from contextlib import suppress
from functools import cache
from multiprocessing import current_process
from pathlib import Path

_PREFIX = "resnetd-runner-"
_LOCK = "lock"


@cache
def prepare() -> None:
    """Before this process starts its fork server; deletes what killed runners have left."""
    parent = Path(tempfile.gettempdir())
    _delete_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    # The file stays open, and the lock held, until the process ends, however it ends.
    lock = (folder / _LOCK).open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    atexit.register(_delete, folder, lock)
    # Not a folder in it: the path of a socket has at most 107 bytes.
    current_process()._config["tempdir"] = str(folder)  # type: ignore[attr-defined]  # noqa: SLF001


def _delete(folder: Path, lock: object) -> None:
    del lock
    shutil.rmtree(folder, ignore_errors=True)


def _delete_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        # Another user's, or one that another runner deletes at this moment, or a new one.
        with suppress(OSError), (folder / _LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
