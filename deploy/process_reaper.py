"""Runs a command and stops all its descendants: `python -m deploy.process_reaper COMMAND...`.

Ray's processes leave their parents. As their subreaper (prctl(2)) this process becomes the parent
of those, and kills all of them when the command exits, on SIGTERM, or when its own parent exits.
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


def terminate_with_parent() -> None:
    """Sends this process SIGTERM when its parent exits for any reason. Linux only."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def run(command: list[str]) -> int:
    """Returns the command's exit status once no process of it is left."""
    terminate_with_parent()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, _exit)
    # Ctrl-C in a terminal reaches all of its processes; the parent decides when this one stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = os.posix_spawnp(command[0], command, os.environ)
        while True:
            # Of orphans too, which stay zombies until then.
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
        while _reap_zombie():
            pass
        time.sleep(0.02)


def _reap_zombie() -> bool:
    try:
        pid, _ = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return False
    return pid != 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
