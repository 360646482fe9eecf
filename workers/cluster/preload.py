"""Imported by the fork server before it forks: everything that a training's first step imports.

Nothing here may start a thread: a thread would be lost in the fork.
"""

import signal

import torch

from workers.cluster import rank_process  # noqa: F401

# Ray stops a runner by SIGINT to all its processes; the runner ends its attempt in order.
signal.signal(signal.SIGINT, signal.SIG_IGN)
# torch's pool of threads, too, would be lost.
torch.set_num_threads(1)
# The first step of an optimizer imports torch's compiler, used or not.
_parameter = torch.nn.Parameter(torch.zeros(1))
_parameter.grad = torch.zeros(1)
torch.optim.SGD([_parameter], lr=0.1, momentum=0.9, fused=True).step()
