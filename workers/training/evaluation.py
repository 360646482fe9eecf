"""Testing a network: errors of one view of an image, or of several views averaged.

In float32, whatever the run is computed in: that is how people will use the weights.

Shapes: N batch, C channels, H height, W width, K classes, S sums.
"""

import copy
import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from service.catalog.recipes import BnStatistics, Recipe, TtaMode
from workers.training import metric_sums, precision
from workers.training.data import augmentation
from workers.training.data.data_source import DataSource
from workers.training.device_context import DeviceContext
from workers.training.distributed import RankGroup

# Of the training images, for population statistics; how many the authors took is not told.
PRECISE_BN_IMAGES = 10_000

EvaluationBatches = Iterable[tuple[list[Tensor], Tensor]]
"""Batches: the views of the images, each images_NCHW of a size of its own, and labels_N."""


class EvaluationStream:
    """Of a GPU: what is started in it is computed beside what is started elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def after_what_was_started(self) -> None:
        """It begins once the rest of the device has done what it has been given so far."""
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))

    def used(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._stream)


def make_stream(place: DeviceContext) -> EvaluationStream | None:
    """None where tests take the training's turn: on a CPU, and where ranks test together."""
    return EvaluationStream(place.device) if place.is_alone_on_gpu else None


class PendingEvaluation:
    """Under way, or done. `sums` are this rank's sums_S by the name of the images."""

    def __init__(
        self, sums: Mapping[str, Tensor], stream: EvaluationStream | None, ranks: RankGroup
    ) -> None:
        self._sums, self._stream, self._ranks = sums, stream, ranks

    def results(self) -> dict[str, tuple[float, float]]:
        """Waits for them: loss, and error in percent. Called by every rank."""
        with nullcontext() if self._stream is None else self._stream.used():
            return {
                name: metric_sums.means(self._ranks.sum(sums_S))
                for name, sums_S in self._sums.items()
            }


class Evaluator:
    """Tests a training's network, each rank on its share of the images.

    In a `stream` of its own it tests a copy, and the training goes on meanwhile.
    """

    def __init__(
        self,
        model: nn.Module,
        source: DataSource,
        recipe: Recipe,
        ranks: RankGroup,
        device: torch.device,
        *,
        stream: EvaluationStream | None,
    ) -> None:
        self._model, self._source, self._recipe = model, source, recipe
        self._ranks, self._device = ranks, device
        self._stream = stream
        self._copy: nn.Module | None = None

    @property
    def is_beside(self) -> bool:
        return self._stream is not None

    def begin(self) -> PendingEvaluation:
        """Of the network as it is now, on "test" and on "validation" images if any are held out.

        The test before it must have been waited for.
        """
        self._settle_statistics()
        if self._stream is None:
            return self._test(self._model)
        copy_of_it = self._copied()
        self._stream.after_what_was_started()
        with self._stream.used():
            return self._test(copy_of_it)

    def _test(self, model: nn.Module) -> PendingEvaluation:
        sums = {}
        if self._source.validation_images > 0:
            sums["validation"] = self._sums(model, of_validation=True)
        sums["test"] = self._sums(model, of_validation=False)
        return PendingEvaluation(sums, self._stream, self._ranks)

    def _sums(self, model: nn.Module, *, of_validation: bool) -> Tensor:
        batches = self._source.views(
            of_validation=of_validation, rank=self._ranks.rank, world_size=self._ranks.world_size
        )
        return evaluate(model, batches, self._recipe.test_time_augmentation, device=self._device)

    @torch.no_grad()
    def _copied(self) -> nn.Module:
        if self._copy is None:
            self._copy = copy.deepcopy(self._model)
        else:
            mine, its = self._copy.state_dict(), self._model.state_dict()
            for name, tensor in mine.items():
                tensor.copy_(its[name])
        return self._copy

    def _settle_statistics(self) -> None:
        """Gives all ranks the same statistics of batch normalisation to test with."""
        if self._recipe.bn_statistics is BnStatistics.PRECISE:
            measure_precise_bn(self._model, self._population())
            self._ranks.average_statistics(self._model)
        else:
            self._ranks.share_statistics(self._model)

    def _population(self) -> Iterable[Tensor]:
        """This rank's share of the images that an epoch begins with, cut as in training."""
        images = min(PRECISE_BN_IMAGES, self._source.train_images)
        for number in range(max(1, images // self._recipe.batch_size)):
            start, stop = augmentation.batch_range(
                number,
                self._recipe.batch_size,
                rank=self._ranks.rank,
                world_size=self._ranks.world_size,
            )
            yield self._source.batch(start, stop)[0]


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: EvaluationBatches,
    views: TtaMode,
    *,
    device: torch.device,
) -> Tensor:
    """sums_S over the batches. The model is in training mode again afterwards."""
    model.eval()
    sums_S = metric_sums.zeros(device)
    for views_NCHW, labels_N in batches:
        with precision.exact_float32(device):
            scores_NK = combine_scores(model, views_NCHW, views)
        losses = functional.cross_entropy(scores_NK, labels_N, reduction="sum")
        sums_S += metric_sums.count(scores_NK, labels_N, losses)
    model.train()
    return sums_S


def combine_scores(model: nn.Module, views_NCHW: list[Tensor], views: TtaMode) -> Tensor:
    """scores_NK whose softmax is the averaged probability.

    Mirror images' logits are averaged (Jordan 2024). Of ten crops and of several scales the
    probabilities are (section 3.4); within a scale the last map is averaged, and the classifier
    is linear, so the logits of all its places are.
    """
    logits_VNK = torch.stack([model(each) for each in views_NCHW])
    if views in {TtaMode.NONE, TtaMode.HFLIP}:
        return logits_VNK.mean(dim=0)
    return logits_VNK.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(views_NCHW))


@torch.no_grad()
def measure_precise_bn(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replaces the moving averages of batch normalisation by means over the batches.

    As the paper's authors did after training (KaimingHe/deep-residual-networks, README, item 5).
    """
    normalisations = [each for each in model.modules() if isinstance(each, _BatchNorm)]
    momenta = [each.momentum for each in normalisations]
    for each in normalisations:
        each.reset_running_stats()
    for number, images_NCHW in enumerate(batches, start=1):
        for each in normalisations:
            # A plain mean over all batches. Torch's own (None) reads its counter on the device.
            each.momentum = 1 / number
        with precision.exact_float32(images_NCHW.device):
            model(images_NCHW)
    for each, momentum in zip(normalisations, momenta, strict=True):
        each.momentum = momentum
