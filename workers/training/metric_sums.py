"""Loss and errors as sums, which processes and pieces of a run can add up without rounding.

Shapes: N batch, K classes, S sums.
"""

import torch
from torch import Tensor

SUMS = 3


def zeros(device: torch.device) -> Tensor:
    """float64: sums of a million losses, and whole numbers of images, must not round."""
    return torch.zeros(SUMS, dtype=torch.float64, device=device)


def count(scores_NK: Tensor, labels_N: Tensor, loss: Tensor) -> Tensor:
    """sums_S: the loss, which is a sum over the images, the images that are wrong, and all."""
    wrong = (scores_NK.argmax(dim=1) != labels_N).sum()
    images = torch.full_like(wrong, len(labels_N))
    return torch.stack([loss.double(), wrong.double(), images.double()])


def means(sums_S: Tensor) -> tuple[float, float]:
    """Loss, and error in percent, of an image."""
    loss, wrong, images = sums_S.tolist()
    return loss / images, 100 * wrong / images
