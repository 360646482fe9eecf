"""Where a process trains."""

from dataclasses import dataclass

import torch

from workers.training import memory


@dataclass(frozen=True)
class DeviceContext:
    """Rank of world_size, the device and this process's share of it, how many CPU threads."""

    rank: int
    world_size: int
    device: torch.device
    threads: int
    gpu_share: float = 1.0

    @property
    def is_alone_on_gpu(self) -> bool:
        """No other rank has to do the same at the same time."""
        return self.device.type == "cuda" and self.world_size == 1

    def wait(self) -> None:
        """Until the device has taken the steps that were started."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def settle(self) -> None:
        """Makes this process ready to train here: before its first step."""
        torch.set_num_threads(self.threads)
        memory.keep_for_the_next_step()
        if self.gpu_share < 1.0 and self.device.type == "cuda":
            # What is beyond it is for those who have the other shares.
            torch.cuda.set_per_process_memory_fraction(self.gpu_share, self.device)
