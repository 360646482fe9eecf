"""Imported by the fork server before it forks: what a training's first step imports.

Nothing here may start a thread: a thread would be lost in the fork.
"""

import signal

import torch

from workers.cluster import rank_process  # noqa: F401

# Ray stops a runner by SIGINT to all its processes; the runner ends its attempt in order.
signal.signal(signal.SIGINT, signal.SIG_IGN)
# torch's pool of threads, too, would be lost.
torch.set_num_threads(1)
