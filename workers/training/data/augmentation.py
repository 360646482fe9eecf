"""The paper's preprocessing, a batch at a time: which image comes when, and how it is cut.

The order of the images, their crops and flips are hashes of (seed, epoch, image): nothing is
drawn, so nothing needs saving, and any number of workers sees the same batches.

Shapes: N batch, H height, W width, C channels; P pixels of an image with its zeros around it.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from service.catalog.recipes import Flip, Normalization
from workers.training.data.datasets import Images, Split

# A batch may lie across two.
_KEPT_EPOCHS = 2

_UInt64s = NDArray[np.uint64]


class _Purpose(IntEnum):
    ORDER = 1
    CROP = 2
    FLIP = 3
    HOLD_OUT = 4


@dataclass(frozen=True)
class BatchDraws:
    """Of each image in a batch: its index, its crop's place in the padded image, its flip."""

    index_N: Tensor
    top_N: Tensor
    left_N: Tensor
    is_flipped_N: Tensor


class Sampler:
    """The endless stream of images that a training sees: epoch after epoch, each in its own order.

    A batch is a stretch of the stream; where an epoch ends within it, the next one goes on.
    `offsets`: places of a crop along one side, twice the padding and one. `flip` None: never.
    """

    def __init__(
        self,
        seed: int,
        images: int,
        *,
        offsets: int,
        flip: Flip | None,
        device: torch.device | None = None,
    ) -> None:
        self._seed, self._images, self._offsets, self._flip = seed, images, offsets, flip
        self._device = device
        self._epochs: dict[int, Tensor] = {}

    def draw(self, start: int, stop: int) -> BatchDraws:
        """Places `start` to `stop` of the stream, as int64 on the device."""
        first, last = start // self._images, (stop - 1) // self._images
        pieces = []
        for epoch in range(first, last + 1):
            begin = epoch * self._images
            pieces.append(self._epoch(epoch)[:, max(start - begin, 0) : stop - begin])
        return BatchDraws(*(pieces[0] if first == last else torch.cat(pieces, dim=1)))

    def _epoch(self, epoch: int) -> Tensor:
        """Of each the device has all draws: to copy those of a batch it would have to be idle."""
        if epoch not in self._epochs:
            if len(self._epochs) == _KEPT_EPOCHS:
                del self._epochs[next(iter(self._epochs))]
            drawn = _draw_epoch(self._seed, epoch, self._images, self._offsets, self._flip)
            self._epochs[epoch] = torch.from_numpy(drawn).to(self._device)
        return self._epochs[epoch]


def _draw_epoch(
    seed: int, epoch: int, images: int, offsets: int, flip: Flip | None
) -> NDArray[np.int64]:
    """Rows: index, top, left, is_flipped; columns: the images in the epoch's order."""
    keys = _hashes(seed, epoch, images, _Purpose.ORDER)
    index = np.argsort(keys, kind="stable")
    draws = _hashes(seed, epoch, images, _Purpose.CROP)[index]
    draws, top = np.divmod(draws, np.uint64(offsets))
    draws, left = np.divmod(draws, np.uint64(offsets))
    if flip is None:
        is_flipped = np.zeros_like(draws)
    elif flip is Flip.RANDOM:
        is_flipped = draws % np.uint64(2)
    else:  # half of the images first seen mirrored, and every one mirrored every second time
        first = _hashes(seed, 0, images, _Purpose.FLIP)[index]
        is_flipped = (first + np.uint64(epoch % 2)) % np.uint64(2)
    return np.stack([index, *(row.astype(np.int64) for row in (top, left, is_flipped))])


def _hashes(seed: int, epoch: int, images: int, purpose: _Purpose) -> _UInt64s:
    """One number in [0, 2**64) for each image."""
    state: _UInt64s = np.array([seed], dtype=np.uint64)
    for word in (purpose, epoch):
        state = _mix(state ^ np.uint64(word))
    numbers: _UInt64s = np.arange(images, dtype=np.uint64)
    return _mix(state + numbers)


def _mix(words: _UInt64s) -> _UInt64s:
    """SplitMix64's step (Steele, Lea, Flood 2014); unsigned arrays wrap around as it wants."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def split_held_out(images: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the images that are trained on, and of `count` others; alike for every seed."""
    order = np.argsort(_hashes(0, 0, images, _Purpose.HOLD_OUT), kind="stable")
    return np.sort(order[count:]), np.sort(order[:count])


def batch_range(iteration: int, batch_size: int, *, rank: int, world_size: int) -> tuple[int, int]:
    """Where the rank's part of a global batch begins and ends in the stream of images."""
    share = batch_size // world_size
    start = iteration * batch_size + rank * share
    return start, start + share


def mean_image(train: Split) -> Tensor:
    """The per-pixel mean mean_HWC float32, in bytes' units; exact sums, so alike everywhere."""
    sums_HWC = train.images_NHWC.sum(dim=0, dtype=torch.int64)
    return (sums_HWC.double() / len(train)).float()


@dataclass(frozen=True)
class Normalizer:
    """A network takes (bytes - mean_HWC) / deviation_C, both in bytes' units."""

    mean_HWC: Tensor
    deviation_C: Tensor

    @classmethod
    def of(cls, train: Split, normalization: Normalization, device: torch.device) -> "Normalizer":
        mean_HWC = mean_image(train)
        if normalization is Normalization.PIXEL_MEAN:
            # No deviation in the paper; bytes become numbers up to 1, which changes nothing else.
            return cls(mean_HWC.to(device), torch.full((3,), 255.0, device=device))
        mean_C = mean_HWC.double().mean(dim=(0, 1))
        squares = [
            images_NHWC.double().square().mean(dim=(0, 1, 2)) * len(images_NHWC)
            for images_NHWC in torch.split(train.images_NHWC, 4096)
        ]
        variance_C = torch.stack(squares).sum(dim=0) / len(train) - mean_C.square()
        deviation_C = torch.where(variance_C > 0, variance_C.sqrt(), 255.0)  # of a constant channel
        return cls(mean_C.float().expand_as(mean_HWC).to(device), deviation_C.float().to(device))

    def __call__(self, images_NHWC: Tensor) -> Tensor:
        """Bytes as the network takes them for testing: images_NCHW, uncut.

        Where they are of another size than the mean image, its mean colour is taken.
        """
        mean_HWC = self.mean_HWC
        if images_NHWC.shape[1:] != mean_HWC.shape:
            mean_HWC = mean_HWC.mean(dim=(0, 1), keepdim=True)
        normal_NHWC = (images_NHWC - mean_HWC).div_(self.deviation_C)
        return normal_NHWC.permute(0, 3, 1, 2)


class BatchAugmenter:
    """Training batches cut from images that lie on the device (section 4.2).

    The mean image is subtracted, then zeros are put around, then a crop of the image's own size
    is taken or its mirror image. Bytes are kept, and the mean with zeros around it beside them:
    outside, zero minus zero is the paper's zero, and floats would take four times the memory.
    """

    def __init__(
        self,
        images: Images,
        normaliser: Normalizer,
        *,
        seed: int,
        device: torch.device,
        flip: Flip = Flip.RANDOM,
    ) -> None:
        padding = images.padding
        count, self._height, self._width, channels = images.train.images_NHWC.shape
        around = (0, 0, padding, padding, padding, padding)
        padded_NHWC = functional.pad(images.train.images_NHWC, around)
        self._padded_width = padded_NHWC.shape[2]
        self._pixels = padded_NHWC.shape[1] * padded_NHWC.shape[2]
        self._bytes_PC = padded_NHWC.view(count * self._pixels, channels).to(device)
        mean_HWC = functional.pad(normaliser.mean_HWC, around)
        self._mean_PC = mean_HWC.view(self._pixels, channels)
        self._deviation_C = normaliser.deviation_C
        self._labels_N = images.train.labels_N.to(device)
        self.sampler = Sampler(
            seed,
            count,
            offsets=2 * padding + 1,
            flip=flip if images.flip else None,
            device=device,
        )
        self._columns_W = torch.arange(self._width, device=device)
        self._rows_H = torch.arange(self._height, device=device)

    def batch(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """images_NCHW float32 (channels last in memory) and labels_N of places in the stream."""
        draws = self.sampler.draw(start, stop)
        mirrored_NW = draws.is_flipped_N[:, None] * (self._width - 1 - 2 * self._columns_W)
        columns_NW = draws.left_N[:, None] + self._columns_W + mirrored_NW
        rows_NH = draws.top_N[:, None] + self._rows_H
        place_NHW = rows_NH[:, :, None] * self._padded_width + columns_NW[:, None, :]
        pixel_NHW = place_NHW + draws.index_N[:, None, None] * self._pixels
        bytes_PC = self._bytes_PC.index_select(0, pixel_NHW.view(-1))
        mean_PC = self._mean_PC.index_select(0, place_NHW.view(-1))
        images_NHWC = (bytes_PC - mean_PC).div_(self._deviation_C).view(*place_NHW.shape, -1)
        return images_NHWC.permute(0, 3, 1, 2), self._labels_N.index_select(0, draws.index_N)
