"""Imported by a fork server before it forks training processes: what their first step imports.

Nothing here may start a thread: a thread would be lost in the fork.
"""

import torch

from workers.training import trainer  # noqa: F401

# torch's pool of threads would be lost.
torch.set_num_threads(1)
# The first step of an optimizer imports torch's compiler, used or not, for seconds.
_parameter = torch.nn.Parameter(torch.zeros(1))
_parameter.grad = torch.zeros(1)
torch.optim.SGD([_parameter], lr=0.1, momentum=0.9, fused=True).step()
