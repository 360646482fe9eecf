"""What the processes of one training tell each other; a single process tells itself.

The default process group is the caller's. Small things go over a gloo group of their own, which
works beside any backend and never waits for a GPU.

Shapes: N batch, C channels, H height, W width; R ranks.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from service.states import StopReason

_STOPS: tuple[StopReason | None, ...] = (None, *StopReason)


@contextmanager
def join_ranks(*, rank: int, world_size: int) -> Iterator["RankGroup"]:
    """Every rank joins at the same point of its training."""
    if world_size == 1:
        yield RankGroup(rank, world_size, None)
        return
    control = dist.new_group(backend="gloo")
    assert isinstance(control, dist.ProcessGroup)  # every rank is a member
    try:
        yield RankGroup(rank, world_size, control)
    finally:
        dist.destroy_process_group(control)


class RankGroup:
    def __init__(self, rank: int, world_size: int, control: dist.ProcessGroup | None) -> None:
        self.rank = rank
        self.world_size = world_size
        self._control = control
        self._flag = torch.zeros(1, dtype=torch.int32)
        self._on_its_way: dist.Work | None = None

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of all ranks' tensors, in place."""
        if self._control is not None:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: Tensor) -> Tensor:
        """All ranks' tensors, stacked along a new first dimension."""
        if self._control is None:
            return tensor[None].clone()
        tensors_R = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(tensors_R, tensor)
        return torch.stack(tensors_R)

    def list_of(self, number: int) -> list[int]:
        """All ranks' numbers."""
        if self._control is None:
            return [number]
        numbers_R = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(numbers_R, torch.tensor([number]), group=self._control)
        return [int(each) for each in numbers_R]

    def parallel(self, model: nn.Module, images_NCHW: Tensor) -> nn.Module:
        """The model, whose gradients are all ranks' mean; all begin with rank 0's weights.

        The images are any batch. DDP lays gradients out anew after its first backward pass, and
        three or more ranks sum in an order that hangs on the layout. A pass that changes nothing
        comes first, so that a run's first step is like the first after it was resumed.
        """
        if self._control is None:
            return model
        parallel: nn.Module = DistributedDataParallel(
            model,
            # Batch normalisation is local, as in the paper; share_statistics is for testing.
            forward_sync_buffers=False,
            gradient_as_bucket_view=True,
        )
        model.eval()  # which leaves the running statistics alone
        parallel(images_NCHW[:1]).sum().backward()  # in float32: a whole share may be too much
        model.zero_grad(set_to_none=True)
        model.train()
        return parallel

    def share_statistics(self, model: nn.Module) -> None:
        """Gives every rank the running means and variances of rank 0, in one message."""
        if self._control is not None:
            flat = _flat_statistics(model)
            dist.broadcast(flat, src=0)
            _set_statistics(model, flat)

    def average_statistics(self, model: nn.Module) -> None:
        """Gives every rank the mean of all ranks' running means and variances."""
        if self._control is not None:
            flat = _flat_statistics(model)
            dist.all_reduce(flat)
            _set_statistics(model, flat / self.world_size)

    def agree(self, wish: StopReason | None) -> StopReason | None:
        """Called by every rank between two steps: what rank 0 wished at the call before.

        The flag travels while the step is computed, so it costs nothing; all ranks hear the same
        at the same step, and none is left waiting for a partner that has stopped. A single
        process gets its wish at once.
        """
        if self._control is None:
            return wish
        agreed = self._heard()
        if agreed is None:
            self._flag.fill_(_STOPS.index(wish))
            self._on_its_way = dist.broadcast(self._flag, src=0, group=self._control, async_op=True)
        return agreed

    def part_ways(self) -> None:
        """After the last step: nothing may be on its way when the processes part."""
        self._heard()

    def _heard(self) -> StopReason | None:
        if self._on_its_way is None:
            return None
        self._on_its_way.wait()
        self._on_its_way = None
        return _STOPS[int(self._flag)]


def _statistics(model: nn.Module) -> list[Tensor]:
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


def _flat_statistics(model: nn.Module) -> Tensor:
    return torch.cat([buffer.view(-1) for buffer in _statistics(model)])


def _set_statistics(model: nn.Module, flat: Tensor) -> None:
    statistics = _statistics(model)
    for buffer, values in zip(
        statistics, torch.split(flat, [each.numel() for each in statistics]), strict=True
    ):
        buffer.copy_(values.view_as(buffer))
