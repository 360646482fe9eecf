"""Batch normalization over the images of all ranks; torch's own supports GPUs only.

Shapes: N batch, C channels, H height, W width.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


def convert_sync_batch_norm(model: nn.Module) -> nn.Module:
    """Synchronizes each batch normalization over the default process group; names stay."""
    if next(model.parameters()).is_cuda:
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = CpuSyncBatchNorm2d
    return model


class CpuSyncBatchNorm2d(nn.BatchNorm2d):
    """All ranks must have the same number of images."""

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        if not self.training:
            return super().forward(maps_NCHW)
        with torch.autocast(maps_NCHW.device.type, enabled=False):
            return self._normalize(maps_NCHW.float()).to(maps_NCHW.dtype)

    def _normalize(self, maps_NCHW: Tensor) -> Tensor:
        world_size = dist.get_world_size()
        count = world_size * maps_NCHW.numel() // maps_NCHW.shape[1]
        # Two passes: the difference of two large squares would lose a small variance.
        mean_C = _all_reduce_sum(maps_NCHW.mean(dim=(0, 2, 3))) / world_size
        centered_NCHW = maps_NCHW - mean_C[:, None, None]
        variance_C = _all_reduce_sum(centered_NCHW.square().mean(dim=(0, 2, 3))) / world_size
        self._update_running_stats(mean_C.detach(), variance_C.detach() * count / (count - 1))
        scale_C = self.weight * torch.rsqrt(variance_C + self.eps)
        return centered_NCHW * scale_C[:, None, None] + self.bias[:, None, None]

    def _update_running_stats(self, mean_C: Tensor, variance_C: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(variance_C, self.momentum)


def _all_reduce_sum(tensor: Tensor) -> Tensor:
    """Differentiable: gradients are summed over all ranks, too."""
    summed: Tensor = all_reduce(tensor.contiguous())  # type: ignore[no-untyped-call]
    return summed
