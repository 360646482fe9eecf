"""The process that a rank trains in: its rank, device, threads, and allocator settings."""

import ctypes
from dataclasses import dataclass

import torch

# mallopt parameters, from <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# The largest mmap threshold that glibc accepts.
_MAX_MMAP_THRESHOLD_BYTES = 32 * 2**20
_MAX_RETAINED_BYTES = 2**31 - 1


@dataclass(frozen=True)
class DeviceContext:
    """`gpu_share`: the part of the GPU that belongs to this process; `threads`: CPU threads."""

    rank: int
    world_size: int
    device: torch.device
    threads: int
    gpu_share: float = 1.0

    @property
    def is_single_gpu(self) -> bool:
        """One GPU, and no other rank to synchronize with."""
        return self.device.type == "cuda" and self.world_size == 1

    def synchronize(self) -> None:
        """Waits until the device has done the steps that were started."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def configure_process(self) -> None:
        """Must be called before the first step."""
        torch.set_num_threads(self.threads)
        retain_freed_memory()
        if self.gpu_share < 1.0 and self.device.type == "cuda":
            # The rest of the GPU's memory belongs to other processes.
            torch.cuda.set_per_process_memory_fraction(self.gpu_share, self.device)


def retain_freed_memory() -> bool:
    """Makes glibc keep up to 2 GiB of freed memory; False if the C library is not glibc.

    By default glibc returns large blocks to the system at once and each step faults them in again,
    page by page: a quarter of a ResNet-20's step time on 2 cores.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    is_set: list[int] = [
        mallopt(_M_MMAP_THRESHOLD, _MAX_MMAP_THRESHOLD_BYTES),
        mallopt(_M_TRIM_THRESHOLD, _MAX_RETAINED_BYTES),
    ]
    return all(is_set)
