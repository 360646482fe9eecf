"""Where the loop's batches come from: images that lie on the device, or stream from files.

A source is asked for places in the stream of a training's images, and for the images to test on.

Shapes: N batch, C channels, H height, W width.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from service.catalog.recipes import Crop, Recipe, TtaMode
from service.specs.job_spec import JobSpec
from workers.training.data import augmentation, datasets
from workers.training.data.augmentation import BatchAugmenter, Normalizer
from workers.training.data.datasets import Images
from workers.training.errors import DatasetUnusable

# Without gradients a batch may be bigger than in training.
_TEST_SHARE = 4


class DataSource(Protocol):
    """`validation_images` 0: none were held out. `description`: how images come to the network.

    `is_resident`: all of them lie on the device, and nobody waits for a batch.
    """

    description: str
    is_resident: bool
    classes: int
    train_images: int
    validation_images: int
    test_images: int
    normaliser: Normalizer

    def batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """images_NCHW float32 and labels_N of places in the stream."""

    def views(
        self, *, of_validation: bool, rank: int, world_size: int
    ) -> Iterator[tuple[list[Tensor], Tensor]]:
        """The rank's share of the images to test on, as evaluation.evaluate takes them."""

    def close(self) -> None:
        """No more images are wanted."""


def open_data_source(
    spec: JobSpec, data_path: Path, *, device: torch.device, threads: int
) -> DataSource:
    """DatasetMissing says how to fetch the images; DatasetUnusable what is wrong with them.

    Only a crop of the image's own size needs no photograph: all others stream.
    """
    if spec.recipe.crop is Crop.PAD_CROP:
        images = datasets.read_images(spec.dataset, data_path, family=spec.family)
        return ResidentSource(images, spec.recipe, seed=spec.seed, device=device)
    # Seconds of torchvision, which nothing else needs.
    from workers.training.data import image_decoding  # noqa: PLC0415
    from workers.training.data.image_loader import StreamingSource  # noqa: PLC0415

    # Beside a GPU all threads are free to read, else half of them train.
    is_gpu = device.type == "cuda"
    return StreamingSource(
        datasets.image_folder_path(spec.dataset, data_path),
        spec.recipe,
        seed=spec.seed,
        device=device,
        processes=threads if is_gpu else threads // 2,
        is_decoded_there=is_gpu and image_decoding.supports_jpeg_decoding(device),
    )


def _name(device: torch.device) -> str:
    return "GPU" if device.type == "cuda" else "CPU"


class ResidentSource:
    """Small data sets: bytes on the device, cut and mirrored there by one gather."""

    is_resident = True

    def __init__(self, images: Images, recipe: Recipe, *, seed: int, device: torch.device) -> None:
        images = _split(images, recipe.validation_images)
        self.description = f"bytes on the {_name(device)}"
        self.classes = images.classes
        self.train_images, self.test_images = len(images.train), len(images.test)
        self.validation_images = 0 if images.validation is None else len(images.validation)
        self.normaliser = Normalizer.of(images.train, recipe.normalization, device)
        self._recipe = recipe
        # A test that is to run beside the training must not wait for bytes on their way.
        self._test = images.test.to(device)
        self._validation = None if images.validation is None else images.validation.to(device)
        self._augmenter = BatchAugmenter(
            images, self.normaliser, seed=seed, device=device, flip=recipe.flip
        )

    def batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        return self._augmenter.batch(start, stop)

    def views(
        self, *, of_validation: bool, rank: int, world_size: int
    ) -> Iterator[tuple[list[Tensor], Tensor]]:
        split = self._validation if of_validation else self._test
        assert split is not None
        for rows_N in _rank_slices(len(split), self._recipe.batch_size, rank, world_size):
            images_NCHW = self.normaliser(split.images_NHWC[rows_N])
            is_mirrored = self._recipe.test_time_augmentation is TtaMode.HFLIP
            views = [images_NCHW, images_NCHW.flip(3)] if is_mirrored else [images_NCHW]
            yield views, split.labels_N[rows_N]

    def close(self) -> None: ...


def _split(images: Images, validation_images: int) -> Images:
    """The last of the paper's splits: 45k to train on, 5k to choose the schedule by."""
    if validation_images == 0:
        return images
    if validation_images >= len(images.train):
        raise DatasetUnusable(
            f"{validation_images} validation images cannot be held out of "
            f"{len(images.train)} training images"
        )
    kept, held = augmentation.split_held_out(len(images.train), validation_images)
    return replace(
        images,
        train=images.train.only(torch.from_numpy(kept)),
        validation=images.train.only(torch.from_numpy(held)),
    )


def _rank_slices(images: int, batch_size: int, rank: int, world_size: int) -> Iterator[slice]:
    share = math.ceil(images / world_size)
    stop = min((rank + 1) * share, images)
    step = max(1, _TEST_SHARE * batch_size // world_size)
    for start in range(rank * share, stop, step):
        yield slice(start, min(start + step, stop))
