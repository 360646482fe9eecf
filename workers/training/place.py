"""Where a process trains."""

from dataclasses import dataclass

import torch

from workers.training import memory


@dataclass(frozen=True)
class Place:
    """Rank of world_size, the device, and how many CPU threads."""

    rank: int
    world_size: int
    device: torch.device
    threads: int

    def settle(self) -> None:
        """Makes this process ready to train here: before its first step."""
        torch.set_num_threads(self.threads)
        memory.keep_for_the_next_step()
