"""Loss and error as sums, which ranks and parts of a run add up without rounding.

Shapes: N batch, K classes, S sums, R ranks, W windows.
"""

from enum import IntEnum

import torch
from torch import Tensor

from workers.training.distributed import RankGroup

NUM_SUMS = 3


def zero_sums(device: torch.device) -> Tensor:
    """sums_S; float64, so that neither a million losses nor image counts are rounded."""
    return torch.zeros(NUM_SUMS, dtype=torch.float64, device=device)


def sum_batch(scores_NK: Tensor, labels_N: Tensor, total_loss: Tensor) -> Tensor:
    """sums_S: the loss summed over the images, the number of errors, the number of images."""
    errors = (scores_NK.argmax(dim=1) != labels_N).sum()
    images = torch.full_like(errors, len(labels_N))
    return torch.stack([total_loss.double(), errors.double(), images.double()])


def compute_means(sums_S: Tensor) -> tuple[float, float]:
    """Loss per image, and error in percent. Waits for the device."""
    loss, errors, images = sums_S.tolist()
    return loss / images, 100 * errors / images


class Window(IntEnum):
    """What the training sums are accumulated over."""

    SINCE_REPORT = 0
    SINCE_EVALUATION = 1


class TrainingMetrics:
    """This rank's training sums of both windows; saved in checkpoints."""

    def __init__(self, device: torch.device) -> None:
        self.sums_WS = torch.stack([zero_sums(device)] * len(Window))

    def add(self, sums_S: Tensor) -> None:
        self.sums_WS += sums_S

    def restore(self, sums_RWS: Tensor, ranks: RankGroup) -> None:
        """With another number of ranks than before, rank 0 takes all sums."""
        if len(sums_RWS) == ranks.world_size:
            self.sums_WS.copy_(sums_RWS[ranks.rank])
        elif ranks.rank == 0:
            self.sums_WS.copy_(sums_RWS.sum(dim=0))

    def take_means(self, window: Window, ranks: RankGroup) -> tuple[float, float]:
        """Loss and error of all ranks over the window, which starts anew."""
        sums_S = ranks.all_reduce_sum(self.sums_WS[window].clone())
        self.sums_WS[window] = 0
        return compute_means(sums_S)
