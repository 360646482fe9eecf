"""Imported by the fork server before it forks: everything that a training's first step imports.

Nothing here may start a thread: a thread would be lost in the fork.
"""

import signal

from workers.cluster import rank_process  # noqa: F401
from workers.training import preload  # noqa: F401

# Ray stops a runner by SIGINT to all its processes; the runner ends its attempt in order.
signal.signal(signal.SIGINT, signal.SIG_IGN)
