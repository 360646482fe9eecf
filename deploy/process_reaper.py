"""Runs a command and leaves nothing of it behind: `python -m deploy.process_reaper COMMAND...`.

Ray's processes leave their parents. The keeper adopts whatever its command leaves (it is their
subreaper), and kills all of it by pid when the command ends, when it is told to end, or when its
own parent dies.
"""

import ctypes
import os
import signal
import sys
import time
from types import FrameType

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def die_with_parent() -> None:
    """This process gets SIGTERM when its parent ends, however that ends. Linux only."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def keep(command: list[str]) -> int:
    """The command's exit status, once nothing of it is left."""
    die_with_parent()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, _exit)
    # A terminal's Ctrl-C reaches the whole group; the parent decides what follows from it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = os.posix_spawnp(command[0], command, os.environ)
        while True:
            # Orphans, too: they are zombies of this process until it asks for them.
            pid, status = os.wait()
            if pid == child:
                return os.waitstatus_to_exitcode(status)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _kill_all_descendants()


def _exit(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _kill_all_descendants() -> None:
    while descendants := psutil.Process().children(recursive=True):
        for process in descendants:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        while _reaps_one():
            pass
        time.sleep(0.02)


def _reaps_one() -> bool:
    try:
        pid, _ = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return pid != 0


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1:]))
