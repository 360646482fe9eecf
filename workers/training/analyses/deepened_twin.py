"""Whether a deeper network computes what the shallower one does that it was built from.

He et al. 2015, section 1, argue that it can, since added layers can be identities;
workers.training.models.deepen builds it.

Shapes: N batch, C channels, H height, W width, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from workers.training import precision
from workers.training.analyses import measuring
from workers.training.analyses.measuring import ImageSubset, ReportProgress
from workers.training.metric_sums import Means


@dataclass(frozen=True)
class TwinResult:
    """`max_logit_difference`: to the shallower network, the largest over all images and classes.

    `agreement`: percent of the images that both assign to the same class.
    """

    means: Means
    max_logit_difference: float
    agreement: float


def compare_twins(
    shallow: nn.Module,
    twins: Mapping[str, nn.Module],
    images: ImageSubset,
    *,
    report: ReportProgress,
) -> tuple[Means, dict[str, TwinResult]]:
    """The loss and errors of the shallow network, and how each of the others differs from it."""
    report(0, 1 + len(twins))
    means = measuring.measure(shallow, images)
    found = {}
    for number, (name, twin) in enumerate(twins.items(), start=1):
        report(number, 1 + len(twins))
        difference, agreement = _compare_logits(shallow, twin, images)
        found[name] = TwinResult(measuring.measure(twin, images), difference, agreement)
    report(1 + len(twins), 1 + len(twins))
    return means, found


@torch.no_grad()
def _compare_logits(
    shallow: nn.Module, twin: nn.Module, images: ImageSubset
) -> tuple[float, float]:
    differences, agreeing = [], 0
    with measuring.keeping_modes(shallow), measuring.keeping_modes(twin):
        shallow.eval()
        twin.eval()
        for images_NCHW, _ in images.batches:
            with precision.exact_float32(images_NCHW.device):
                first_NK, second_NK = shallow(images_NCHW), twin(images_NCHW)
            differences.append((first_NK - second_NK).abs().max().item())
            agreeing += int((first_NK.argmax(dim=1) == second_NK.argmax(dim=1)).sum())
    return max(differences), 100 * agreeing / images.count
