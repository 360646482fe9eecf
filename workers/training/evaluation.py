"""Evaluation: errors on held-out images, with test-time augmentation if the recipe asks for it.

Always in float32, whatever the precision of the run: that is how the weights will be used.

Shapes: N batch, C channels, H height, W width, K classes, S sums, V views.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from service.catalog.recipes import BnStatistics, Recipe, TtaMode
from workers.training import metric_sums, precision
from workers.training.data import sampling
from workers.training.data.data_source import DataSource, EvaluationBatches, EvaluationSplit
from workers.training.device_context import DeviceContext
from workers.training.distributed import RankGroup
from workers.training.metric_sums import Means
from workers.training.predictions import PredictionRecorder

# Training images that precise batch normalization statistics are computed over; the authors do
# not give their number.
PRECISE_BN_IMAGES = 10_000


class EvaluationStream:
    """A CUDA stream that evaluates a copy of the network while training continues."""

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def wait_for_training(self) -> None:
        """Work in this stream starts after what the device was given so far."""
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))

    def use(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._stream)


def make_stream(context: DeviceContext) -> EvaluationStream | None:
    """None on a CPU, and with several ranks, which evaluate together: training then waits."""
    return EvaluationStream(context.device) if context.is_single_gpu else None


class PendingEvaluation:
    """An evaluation in progress, or complete; `sums` are this rank's sums_S by split."""

    def __init__(
        self,
        sums: Mapping[EvaluationSplit, Tensor],
        recorder: PredictionRecorder | None,
        stream: EvaluationStream | None,
        ranks: RankGroup,
    ) -> None:
        self._sums, self._recorder = sums, recorder
        self._stream, self._ranks = stream, ranks

    def wait(self) -> dict[EvaluationSplit, Means]:
        """The means of each split. Called by all ranks."""
        with nullcontext() if self._stream is None else self._stream.use():
            return {
                split: metric_sums.compute_means(self._ranks.all_reduce_sum(sums_S))
                for split, sums_S in self._sums.items()
            }

    def gather_predictions(self) -> dict[str, Tensor] | None:
        """For all test images, if they were kept. Called by all ranks."""
        if self._recorder is None:
            return None
        with nullcontext() if self._stream is None else self._stream.use():
            return self._recorder.gather(self._ranks)


class Evaluator:
    """Evaluates a run's network, each rank on its share of the images.

    With a `stream`, it evaluates a copy of the network and training continues meanwhile.
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
    def is_async(self) -> bool:
        return self._stream is not None

    def start(self, *, keeps_predictions: bool = False) -> PendingEvaluation:
        """Of the network as it is now. The previous evaluation must be complete."""
        source = self._source
        recorder = (
            PredictionRecorder(source.test_images, source.classes) if keeps_predictions else None
        )
        self._update_batch_norm_stats()
        if self._stream is None:
            return self._evaluate(self._model, recorder)
        model = self._copy_model()
        self._stream.wait_for_training()
        with self._stream.use():
            return self._evaluate(model, recorder)

    def _evaluate(self, model: nn.Module, recorder: PredictionRecorder | None) -> PendingEvaluation:
        splits = [EvaluationSplit.TEST]
        if self._source.validation_images:
            splits.insert(0, EvaluationSplit.VALIDATION)
        sums = {}
        for split in splits:
            batches = self._source.load_evaluation_batches(
                split, rank=self._ranks.rank, world_size=self._ranks.world_size
            )
            mode = self._recipe.test_time_augmentation
            record = recorder.add if recorder and split is EvaluationSplit.TEST else None
            sums[split] = evaluate(model, batches, mode, device=self._device, record=record)
        return PendingEvaluation(sums, recorder, self._stream, self._ranks)

    @torch.no_grad()
    def _copy_model(self) -> nn.Module:
        if self._copy is None:
            self._copy = copy.deepcopy(self._model)
        else:
            current = self._model.state_dict()
            for name, tensor in self._copy.state_dict().items():
                tensor.copy_(current[name])
        return self._copy

    def _update_batch_norm_stats(self) -> None:
        """Gives all ranks the same statistics to evaluate with."""
        if self._recipe.bn_statistics is BnStatistics.PRECISE:
            batches = load_precise_bn_batches(self._source, self._recipe, self._ranks)
            measure_precise_bn(self._model, batches)
            self._ranks.average_batch_norm_stats(self._model)
        else:
            self._ranks.broadcast_batch_norm_stats(self._model)


def load_precise_bn_batches(
    source: DataSource, recipe: Recipe, ranks: RankGroup
) -> Iterator[Tensor]:
    """This rank's share of the first epoch's first images, augmented as in training."""
    images = min(PRECISE_BN_IMAGES, source.train_images)
    for iteration in range(max(1, images // recipe.batch_size)):
        start, stop = sampling.batch_range(
            iteration, recipe.batch_size, rank=ranks.rank, world_size=ranks.world_size
        )
        yield source.load_batch(start, stop)[0]


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: EvaluationBatches,
    mode: TtaMode,
    *,
    device: torch.device,
    record: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    """sums_S over the batches. The model is in training mode afterwards.

    `record` receives scores_NK and labels_N of each batch.
    """
    model.eval()
    sums_S = metric_sums.zero_sums(device)
    for views_NCHW, labels_N in batches:
        with precision.exact_float32(device):
            scores_NK = combine_scores(model, views_NCHW, mode)
        total_loss = functional.cross_entropy(scores_NK, labels_N, reduction="sum")
        sums_S += metric_sums.sum_batch(scores_NK, labels_N, total_loss)
        if record is not None:
            record(scores_NK, labels_N)
    model.train()
    return sums_S


def combine_scores(model: nn.Module, views_NCHW: list[Tensor], mode: TtaMode) -> Tensor:
    """scores_NK whose softmax is the average over the views.

    Logits are averaged over mirror images (Jordan 2024), probabilities over ten crops and over
    scales (section 3.4). Within a scale the last feature map is averaged, which averages the
    logits of all positions, since the classifier is linear.
    """
    logits_VNK = torch.stack([model(view_NCHW) for view_NCHW in views_NCHW])
    if mode in {TtaMode.NONE, TtaMode.HFLIP}:
        return logits_VNK.mean(dim=0)
    return logits_VNK.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(views_NCHW))


@torch.no_grad()
def measure_precise_bn(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replaces the running statistics of batch normalization by plain means over the batches.

    As the authors did after training (KaimingHe/deep-residual-networks, README, item 5).
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
    for number, images_NCHW in enumerate(batches, start=1):
        for norm in norms:
            # momentum=None averages too, but reads its counter from the device.
            norm.momentum = 1 / number
        with precision.exact_float32(images_NCHW.device):
            model(images_NCHW)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
