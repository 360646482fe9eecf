"""Layers that act at random in training: dropout on a shortcut, and a dropped residual branch.

Shapes: N batch, C channels, H height, W width.
"""

from typing import Any

import torch
from torch import Tensor, nn


class ShortcutDropout(nn.Dropout):
    """Dropout as first published: kept values are not scaled up, and evaluation scales all down.

    So the expectation of the shortcut is scaled by 1 - p, as He et al. 2016 say in section 3.1
    ("with an expectation of 0.5"). torch divides kept values by 1 - p, which keeps the expectation.
    """

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        return super().forward(maps_NCHW) * (1 - self.p)


def drop_branch(shortcut_NCHW: Tensor, block: nn.Module) -> Tensor:
    """The shortcut alone. The parameters of the block's branch get gradients of 0.

    DDP waits for a gradient of each parameter; with find_unused_parameters it would search the
    graph of every step, and leave gradients out. All ranks drop the same branches, so 0 is also
    the mean over the ranks. The optimizer then applies weight decay and momentum to the dropped
    branch, as the authors' code does (yueatsprograms/Stochastic_Depth). Multiplying the branch by 0
    has the same gradients, but takes the time to compute it, and its running statistics change.
    """
    kept_NCHW: Tensor = _DroppedBranch.apply(shortcut_NCHW, *block.parameters())
    return kept_NCHW


class _DroppedBranch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shortcut_NCHW: Tensor, *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*parameters)
        return shortcut_NCHW.clone()  # ReLU will change it in place

    @staticmethod
    def backward(ctx: Any, *gradients_NCHW: Tensor) -> tuple[Tensor, ...]:
        zeros = (torch.zeros_like(parameter) for parameter in ctx.saved_tensors)
        return (*gradients_NCHW, *zeros)
