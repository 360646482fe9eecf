"""Batch normalisation over all ranks' images at once; torch's own does it on GPUs only.

Shapes: N batch, C channels, H height, W width.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


def convert_sync_batch_norm(model: nn.Module) -> nn.Module:
    """The same parameters and names, every batch normalisation over the default process group."""
    if next(model.parameters()).is_cuda:
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = CpuSyncBatchNorm2d
    return model


class CpuSyncBatchNorm2d(nn.BatchNorm2d):
    """Ranks must have equally many images."""

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        if not self.training:
            return super().forward(maps_NCHW)
        with torch.autocast(maps_NCHW.device.type, enabled=False):
            return self._normalise(maps_NCHW.float()).to(maps_NCHW.dtype)

    def _normalise(self, maps_NCHW: Tensor) -> Tensor:
        ranks = dist.get_world_size()
        count = ranks * maps_NCHW.numel() // maps_NCHW.shape[1]
        # Two passes: a difference of two big squares would lose the small variance.
        mean_C = _sum(maps_NCHW.mean(dim=(0, 2, 3))) / ranks
        centred_NCHW = maps_NCHW - mean_C[:, None, None]
        variance_C = _sum(centred_NCHW.square().mean(dim=(0, 2, 3))) / ranks
        self._follow(mean_C.detach(), variance_C.detach() * count / (count - 1))
        scale_C = self.weight * torch.rsqrt(variance_C + self.eps)
        return centred_NCHW * scale_C[:, None, None] + self.bias[:, None, None]

    def _follow(self, mean_C: Tensor, variance_C: Tensor) -> None:
        """Moves the running statistics."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        assert self.momentum is not None
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(variance_C, self.momentum)


def _sum(tensor: Tensor) -> Tensor:
    """Over all ranks; so are its gradients."""
    summed: Tensor = all_reduce(tensor.contiguous())  # type: ignore[no-untyped-call]
    return summed
