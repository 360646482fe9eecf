"""Loss and error as sums, which ranks and parts of a run add up without rounding.

Shapes: N batch, K classes, S sums, R ranks, W windows.
"""

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from workers.training.distributed import RankGroup

NUM_SUMS = 5
TOP = 5


@dataclass(frozen=True)
class Means:
    """Loss per image; errors in percent. `top5_error` means nothing with up to five classes.

    `gradient_norm`: of the steps; 0 in evaluations.
    """

    loss: float
    error: float
    top5_error: float
    gradient_norm: float


def zero_sums(device: torch.device) -> Tensor:
    """sums_S; float64, so that neither a million losses nor image counts are rounded."""
    return torch.zeros(NUM_SUMS, dtype=torch.float64, device=device)


def sum_batch(scores_NK: Tensor, labels_N: Tensor, total_loss: Tensor) -> Tensor:
    """sums_S: the loss summed over the images, top-1 and top-5 errors, 0, the number of images."""
    errors = (scores_NK.argmax(dim=1) != labels_N).sum()
    top_N5 = scores_NK.topk(min(TOP, scores_NK.shape[1]), dim=1).indices
    top5_errors = len(labels_N) - (top_N5 == labels_N[:, None]).sum()
    images = torch.full_like(errors, len(labels_N))
    sums = (total_loss, errors, top5_errors, torch.zeros_like(errors), images)
    return torch.stack([value.double() for value in sums])


def sum_gradient_norm(gradient_norm: Tensor, images: int) -> Tensor:
    """sums_S of a step with that gradient: the norm counts once for each image."""
    sums_S = zero_sums(gradient_norm.device)
    sums_S[3] = gradient_norm.double() * images
    return sums_S


def compute_means(sums_S: Tensor) -> Means:
    """Waits for the device."""
    loss, errors, top5_errors, gradient_norms, images = sums_S.tolist()
    return Means(
        loss / images, 100 * errors / images, 100 * top5_errors / images, gradient_norms / images
    )


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

    def take_means(self, window: Window, ranks: RankGroup) -> Means:
        """Of all ranks over the window, which starts anew."""
        sums_S = ranks.all_reduce_sum(self.sums_WS[window].clone())
        self.sums_WS[window] = 0
        return compute_means(sums_S)
