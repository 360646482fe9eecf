"""What analyses share: images, the loss and error on them, and cells of tables.

Shapes: N batch, C channels, H height, W width, S sums.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from service.catalog.recipes import TtaMode
from service.text import count_of
from workers.training import evaluation, metric_sums
from workers.training.data import sampling
from workers.training.data.data_source import DataSource, EvaluationSplit
from workers.training.data.sampling import Purpose
from workers.training.errors import TrainingError
from workers.training.metric_sums import Means

ReportProgress = Callable[[int, int], None]
"""Called with the number of finished steps and of all, between two steps.

It may raise: the analysis then ends, and the networks are as they were.
"""


# Of the images of an analysis, as float32: 7,000 of ImageNet's, all of CIFAR's.
MAX_IMAGE_BYTES = 4 * 2**30


class NotAnalysable(TrainingError):
    """The analysis has no meaning for this network, or for these checkpoints."""


@dataclass(frozen=True)
class ImageSubset:
    """Images that an analysis measures on, normalized, on the device of the network.

    `count` of the `available` images of the split, in batches of images_NCHW and labels_N. They
    are not augmented.
    """

    split: EvaluationSplit
    count: int
    available: int
    batches: Sequence[tuple[Tensor, Tensor]]

    def in_batches_of(self, size: int) -> "ImageSubset":
        images_NCHW, labels_N = (torch.cat(parts) for parts in zip(*self.batches, strict=True))
        starts = range(0, self.count, size)
        return replace(
            self,
            batches=[(images_NCHW[at : at + size], labels_N[at : at + size]) for at in starts],
        )

    def describe(self, dataset: str, seed: int) -> str:
        """A note for the result of an analysis."""
        kind = "training" if self.split is EvaluationSplit.TRAIN else self.split
        available = count_of(self.available, f"{kind} image")
        if self.count == self.available:
            return f"{available} of {dataset}, not augmented"
        return f"{self.count:,} of {available} of {dataset}, drawn with seed {seed}, not augmented"


def load_subset(
    source: DataSource, split: EvaluationSplit, *, count: int | None, seed: int
) -> ImageSubset:
    """`count` images of the split that the seed draws, in their order; None: all of them.

    NotAnalysable if they do not fit in memory.
    """
    available = count_images(source, split)
    chosen = choose_images(available, count=count, seed=seed)
    _require_memory(source, available if chosen is None else len(chosen))
    batches = source.load_evaluation_batches(split, rank=0, world_size=1, chosen=chosen)
    return ImageSubset(
        split,
        available if chosen is None else len(chosen),
        available,
        [(views_NCHW[0], labels_N) for views_NCHW, labels_N in batches],
    )


def _require_memory(source: DataSource, images: int) -> None:
    """They are measured on again and again, so they are decoded once."""
    image_bytes = source.normalizer.mean_HWC.numel() * torch.float32.itemsize
    if images * image_bytes > MAX_IMAGE_BYTES:
        raise NotAnalysable(
            f"{count_of(images, 'image')} would take {images * image_bytes / 2**30:.1f} GiB of "
            f"memory; `images` must be at most {MAX_IMAGE_BYTES // image_bytes:,}"
        )


def choose_images(available: int, *, count: int | None, seed: int) -> NDArray[np.int64] | None:
    """Indices of `count` images that the seed draws, in their order; None: all of them."""
    if count is None or count >= available:
        return None
    words = sampling.random_words(seed, Purpose.ANALYSED_IMAGES, available)
    return np.sort(np.argsort(words, kind="stable")[:count])


def measure(model: nn.Module, images: ImageSubset) -> Means:
    """Loss and errors of the network, with running statistics and in float32."""
    batches = (([images_NCHW], labels_N) for images_NCHW, labels_N in images.batches)
    device = images.batches[0][1].device
    with keeping_modes(model):
        return metric_sums.compute_means(
            evaluation.evaluate(model, batches, TtaMode.NONE, device=device)
        )


def list_means(means: Means | None) -> list[float | None]:
    """Error and loss as cells of a table; None where they are not finite, or not known."""
    if means is None:
        return [None, None]
    return [means.error, finite(means.loss)]


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@contextmanager
def keeping_modes(model: nn.Module) -> Iterator[None]:
    """Each module is in training or evaluation mode afterwards as it was before."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, is_training in modes.items():
            module.training = is_training


@contextmanager
def restoring(model: nn.Module) -> Iterator[None]:
    """Parameters and statistics may change inside, and are afterwards as they were."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        try:
            yield
        finally:
            for name, tensor in model.state_dict().items():
                tensor.copy_(before[name])


def count_images(source: DataSource, split: EvaluationSplit) -> int:
    counts = {
        EvaluationSplit.TRAIN: source.train_images,
        EvaluationSplit.VALIDATION: source.validation_images,
        EvaluationSplit.TEST: source.test_images,
    }
    if counts[split] == 0:
        raise NotAnalysable(f"the split {split} has no images")
    return counts[split]
