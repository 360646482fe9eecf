"""Communication between the ranks of a run; in a single process every call is local.

The default process group belongs to the caller. Small messages use a gloo group of their own,
which works with any backend and never waits for a GPU.

Shapes: N batch, C channels, H height, W width; R ranks.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from service.states import StopReason


class StepLimit(Enum):
    """What ranks agree on beside a stop."""

    LAST_STEP = "last-step"  # the step that follows is the last of the run


_AGREED: tuple[StopReason | StepLimit | None, ...] = (None, StepLimit.LAST_STEP, *StopReason)


@contextmanager
def join_ranks(*, rank: int, world_size: int) -> Iterator["RankGroup"]:
    """Must be entered by all ranks at the same point of the program."""
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
    """`control` is the gloo group, None in a single process."""

    def __init__(self, rank: int, world_size: int, control: dist.ProcessGroup | None) -> None:
        self.rank = rank
        self.world_size = world_size
        self._control = control
        self._flag = torch.zeros(1, dtype=torch.int32)
        self._pending: dist.Work | None = None

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum of all ranks' tensors, in place."""
        if self._control is not None:
            dist.all_reduce(tensor)
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """All ranks' tensors, stacked along a new first dimension."""
        if self._control is None:
            return tensor[None].clone()
        tensors_R = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(tensors_R, tensor)
        return torch.stack(tensors_R)

    def all_gather_int(self, number: int) -> list[int]:
        if self._control is None:
            return [number]
        numbers_R = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(numbers_R, torch.tensor([number]), group=self._control)
        return [int(value) for value in numbers_R]

    def all_gather_floats(self, values: Sequence[float]) -> list[list[float]]:
        """All ranks' values, which must be of one number; no GPU is waited for."""
        if self._control is None:
            return [list(values)]
        mine = torch.tensor(values, dtype=torch.float64)
        rows_R = [torch.empty_like(mine) for _ in range(self.world_size)]
        dist.all_gather(rows_R, mine, group=self._control)
        return [row.tolist() for row in rows_R]

    def wrap_ddp(self, model: nn.Module, images_NCHW: Tensor) -> nn.Module:
        """The model in DDP, with rank 0's weights on all ranks.

        `images_NCHW` is any batch. DDP rebuilds its buckets after its first backward pass, and
        three or more ranks sum in an order that depends on the layout. So one pass that changes
        nothing comes first, and the first step of a run equals the first after a resume.
        """
        if self._control is None:
            return model
        parallel: nn.Module = DistributedDataParallel(
            model,
            # Batch normalization is local in training, as in the paper.
            forward_sync_buffers=False,
            gradient_as_bucket_view=True,
        )
        model.eval()  # leaves the running statistics as they are
        # One image: in float32 the memory may not suffice for a full batch.
        parallel(images_NCHW[:1]).sum().backward()
        model.zero_grad(set_to_none=True)
        model.train()
        return parallel

    def broadcast_batch_norm_stats(self, model: nn.Module) -> None:
        """Gives all ranks the running means and variances of rank 0, in one message."""
        if self._control is not None:
            flat = _flatten_stats(model)
            dist.broadcast(flat, src=0)
            _set_stats(model, flat)

    def average_batch_norm_stats(self, model: nn.Module) -> None:
        """Gives all ranks the mean of all ranks' running means and variances."""
        if self._control is not None:
            flat = _flatten_stats(model)
            dist.all_reduce(flat)
            _set_stats(model, flat / self.world_size)

    def agree(self, requested: StopReason | StepLimit | None) -> StopReason | StepLimit | None:
        """Called by all ranks before a step: what rank 0 requested at the previous call.

        The flag travels while the step is computed, so it costs no time, and all ranks stop before
        the same step. A single process gets its request at once.
        """
        if self._control is None:
            return requested
        agreed = self._wait_for_flag()
        if agreed is None:
            self._flag.fill_(_AGREED.index(requested))
            self._pending = dist.broadcast(self._flag, src=0, group=self._control, async_op=True)
        return agreed

    def close(self) -> None:
        """Must be called after the last step: no message may be pending when the group ends."""
        self._wait_for_flag()

    def _wait_for_flag(self) -> StopReason | StepLimit | None:
        if self._pending is None:
            return None
        self._pending.wait()
        self._pending = None
        return _AGREED[int(self._flag)]


def _list_stats(model: nn.Module) -> list[Tensor]:
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


def _flatten_stats(model: nn.Module) -> Tensor:
    return torch.cat([buffer.view(-1) for buffer in _list_stats(model)])


def _set_stats(model: nn.Module, flat: Tensor) -> None:
    buffers = _list_stats(model)
    sizes = [buffer.numel() for buffer in buffers]
    for buffer, values in zip(buffers, torch.split(flat, sizes), strict=True):
        buffer.copy_(values.view_as(buffer))
