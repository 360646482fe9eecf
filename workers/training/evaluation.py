"""Testing a network: errors of one view of an image, or of several views averaged.

In float32, whatever the run is computed in: that is how people will use the weights.

Shapes: N batch, C channels, H height, W width, K classes, S sums.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from service.recipes import Recipe, Statistics, Views
from workers.training import augment, tally
from workers.training.ranks import Ranks
from workers.training.sources import Source

# Of the training images, for population statistics; how many the authors took is not told.
POPULATION_IMAGES = 10_000

Viewed = Iterable[tuple[list[Tensor], Tensor]]
"""Batches: the views of the images, each images_NCHW of a size of its own, and labels_N."""


class Tester:
    """Tests a training's network, each rank on its share of the images."""

    def __init__(
        self, model: nn.Module, source: Source, recipe: Recipe, ranks: Ranks, device: torch.device
    ) -> None:
        self._model, self._source, self._recipe = model, source, recipe
        self._ranks, self._device = ranks, device

    def settle_statistics(self) -> None:
        """Gives all ranks the same statistics of batch normalisation to test with."""
        if self._recipe.statistics is Statistics.POPULATION:
            measure_population(self._model, self._population())
            self._ranks.average_statistics(self._model)
        else:
            self._ranks.share_statistics(self._model)

    def means(self, *, of_validation: bool) -> tuple[float, float]:
        """Loss, and error in percent."""
        batches = self._source.views(
            of_validation=of_validation, rank=self._ranks.rank, world_size=self._ranks.world_size
        )
        sums_S = evaluate(self._model, batches, self._recipe.views, device=self._device)
        return tally.means(self._ranks.sum(sums_S))

    def _population(self) -> Iterable[Tensor]:
        """This rank's share of the images that an epoch begins with, cut as in training."""
        images = min(POPULATION_IMAGES, self._source.train_images)
        for number in range(max(1, images // self._recipe.batch_size)):
            start, stop = augment.share_of_batch(
                number,
                self._recipe.batch_size,
                rank=self._ranks.rank,
                world_size=self._ranks.world_size,
            )
            yield self._source.batch(start, stop)[0]


@torch.no_grad()
def evaluate(model: nn.Module, batches: Viewed, views: Views, *, device: torch.device) -> Tensor:
    """sums_S over the batches. The model is in training mode again afterwards."""
    model.eval()
    sums_S = tally.zeros(device)
    for views_NCHW, labels_N in batches:
        scores_NK = scores(model, views_NCHW, views)
        losses = functional.cross_entropy(scores_NK, labels_N, reduction="sum")
        sums_S += tally.count(scores_NK, labels_N, losses)
    model.train()
    return sums_S


def scores(model: nn.Module, views_NCHW: list[Tensor], views: Views) -> Tensor:
    """scores_NK whose softmax is the averaged probability.

    Mirror images' logits are averaged (Jordan 2024). Of ten crops and of several scales the
    probabilities are (section 3.4); within a scale the last map is averaged, and the classifier
    is linear, so the logits of all its places are.
    """
    logits_VNK = torch.stack([model(each) for each in views_NCHW])
    if views in {Views.SINGLE, Views.MIRROR}:
        return logits_VNK.mean(dim=0)
    return logits_VNK.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(views_NCHW))


@torch.no_grad()
def measure_population(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replaces the moving averages of batch normalisation by means over the batches.

    As the paper's authors did after training (KaimingHe/deep-residual-networks, README, item 5).
    """
    normalisations = [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
    momenta = [each.momentum for each in normalisations]
    for each in normalisations:
        each.reset_running_stats()
        each.momentum = None  # torch's word for a plain mean over all batches
    for images_NCHW in batches:
        model(images_NCHW)
    for each, momentum in zip(normalisations, momenta, strict=True):
        each.momentum = momentum
