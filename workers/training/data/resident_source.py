"""Small datasets: all bytes on the device, cropped and flipped there with one gather.

Shapes: N batch, H height, W width, C channels; P pixels of all padded images.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from service.catalog.recipes import Recipe, TtaMode
from service.text import count_of
from workers.training.data import sampling
from workers.training.data.datasets import Images, Split
from workers.training.data.normalization import Normalizer
from workers.training.data.sampling import Sampler
from workers.training.errors import DatasetUnusable

# Without gradients an evaluation batch can be larger than a training batch.
_EVALUATION_BATCH_FACTOR = 4


class ResidentSource:
    """A DataSource over images in memory (He et al. 2015, section 4.2).

    Subtracts the mean image, pads with zeros, crops to the image's own size, flips. Bytes are
    stored padded, and so is the mean image: in the border, zero minus zero is the
    paper's zero, and float images would take four times the memory.
    """

    is_resident = True

    def __init__(
        self,
        images: Images,
        recipe: Recipe,
        *,
        seed: int,
        device: torch.device,
        normalizer: Normalizer | None = None,
    ) -> None:
        images = _hold_out(images, recipe.validation_images)
        self.description = f"bytes on the {'GPU' if device.type == 'cuda' else 'CPU'}"
        self.class_names, self.classes = images.class_names, images.classes
        self.checksum = images.checksum
        self.train_images, self.test_images = len(images.train), len(images.test)
        self.validation_images = 0 if images.validation is None else len(images.validation)
        train_NHWC = images.train.images_NHWC
        if normalizer is None:
            normalizer = Normalizer.measure(train_NHWC, recipe.normalization, device)
        if normalizer.mean_HWC.shape != train_NHWC.shape[1:]:
            raise DatasetUnusable(
                f"images must be {_describe_size(normalizer.mean_HWC[None])}, as those that the "
                f"network was trained on; received {_describe_size(train_NHWC)}"
            )
        self.normalizer = normalizer.to(device)
        self._recipe = recipe
        count, self._height, self._width, channels = images.train.images_NHWC.shape
        border = (0, 0, images.padding, images.padding, images.padding, images.padding)
        padded_NHWC = functional.pad(images.train.images_NHWC, border)
        self._padded_width = padded_NHWC.shape[2]
        self._pixels_per_image = padded_NHWC.shape[1] * padded_NHWC.shape[2]
        self._bytes_PC = padded_NHWC.view(-1, channels).to(device)
        self._mean_PC = functional.pad(self.normalizer.mean_HWC, border).view(-1, channels)
        self._labels_N = images.train.labels_N.to(device)
        # On the device, so that an evaluation during training copies nothing; the training images
        # are a view without the border.
        rows = slice(images.padding, images.padding + self._height)
        columns = slice(images.padding, images.padding + self._width)
        bytes_NHWC = self._bytes_PC.view(padded_NHWC.shape)[:, rows, columns]
        self._splits = {
            "train": Split(bytes_NHWC, self._labels_N, images.train.names),
            "test": images.test.to(device),
        }
        if images.validation is not None:
            self._splits["validation"] = images.validation.to(device)
        self._rows_H = torch.arange(self._height, device=device)
        self._columns_W = torch.arange(self._width, device=device)
        self.sampler = Sampler(
            seed,
            count,
            offsets=2 * images.padding + 1,
            flip=recipe.flip if images.flip else None,
            device=device,
        )

    def load_batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """images_NCHW float32 (channels last in memory) and labels_N of these positions."""
        draws = self.sampler.draw(start, stop)
        flipped_NW = draws.is_flipped_N[:, None] * (self._width - 1 - 2 * self._columns_W)
        columns_NW = draws.left_N[:, None] + self._columns_W + flipped_NW
        rows_NH = draws.top_N[:, None] + self._rows_H
        pixel_NHW = rows_NH[:, :, None] * self._padded_width + columns_NW[:, None, :]
        byte_NHW = pixel_NHW + draws.index_N[:, None, None] * self._pixels_per_image
        bytes_PC = self._bytes_PC.index_select(0, byte_NHW.view(-1))
        mean_PC = self._mean_PC.index_select(0, pixel_NHW.view(-1))
        normal_PC = (bytes_PC - mean_PC).div_(self.normalizer.std_C)
        images_NCHW = normal_PC.view(*pixel_NHW.shape, -1).permute(0, 3, 1, 2)
        return images_NCHW, self._labels_N.index_select(0, draws.index_N)

    def load_evaluation_batches(
        self,
        split: str,
        *,
        rank: int,
        world_size: int,
        chosen: NDArray[np.int64] | None = None,
    ) -> Iterator[tuple[list[Tensor], Tensor]]:
        images = self._splits[split]
        if chosen is not None:
            images = images.select(torch.from_numpy(chosen).to(images.labels_N.device))
        begin, end = sampling.evaluation_range(len(images), rank=rank, world_size=world_size)
        step = max(1, _EVALUATION_BATCH_FACTOR * self._recipe.batch_size // world_size)
        for start in range(begin, end, step):
            rows = slice(start, min(start + step, end))
            images_NCHW = self.normalizer(images.images_NHWC[rows])
            views = [images_NCHW]
            if self._recipe.test_time_augmentation is TtaMode.HFLIP:
                views.append(images_NCHW.flip(3))
            yield views, images.labels_N[rows]

    def list_names(self, split: str) -> list[str]:
        names = self._splits[split].names
        return names or [f"{split}/{index:05}" for index in range(len(self._splits[split]))]

    def close(self) -> None: ...


def _describe_size(images_NHWC: Tensor) -> str:
    return f"{images_NHWC.shape[1]}x{images_NHWC.shape[2]}"


def _hold_out(images: Images, validation_images: int) -> Images:
    """Moves training images to validation, as the paper's 45k/5k split (section 4.2)."""
    if validation_images == 0:
        return images
    if validation_images >= len(images.train):
        raise DatasetUnusable(
            f"recipe.validation_images is {validation_images}, but the dataset has only "
            f"{count_of(len(images.train), 'training image')}"
        )
    kept, held_out = sampling.split_held_out(len(images.train), validation_images)
    return replace(
        images,
        train=images.train.select(torch.from_numpy(kept)),
        validation=images.train.select(torch.from_numpy(held_out)),
    )
