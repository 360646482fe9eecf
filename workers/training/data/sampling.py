"""Which training image comes when, and the random numbers behind its augmentation.

Every number is a pure function of (seed, purpose, epoch, image). So a checkpoint stores no random
state, and any number of workers draws the same global batches.

Shapes: N batch.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.catalog.recipes import Flip

# A batch may span two epochs.
_CACHED_EPOCHS = 2


class Purpose(IntEnum):
    """Separates the random streams of one seed."""

    ORDER = 1
    CROP = 2
    FLIP = 3
    HELD_OUT = 4
    IMAGE = 5
    SURVIVAL = 6
    DROPOUT = 7
    ANALYSED_IMAGES = 8
    DELETED_PARTS = 9
    SWAPPED_BLOCKS = 10
    PATHS = 11
    DIRECTIONS = 12


def random_words(
    seed: int, purpose: Purpose, count: int, *, epoch: int = 0, image: int = 0
) -> NDArray[np.uint64]:
    """`count` uniform 64-bit words. What a step draws has its iteration and rank for the two.

    Philox is counter-based, so each (epoch, image) has a stream of its own. Only its raw output is
    used: NumPy guarantees that it never changes, which it does not for distributions (NEP 19).
    """
    counter = np.array([0, 0, epoch, image], dtype=np.uint64)
    key = np.array([seed, purpose], dtype=np.uint64)
    words: NDArray[np.uint64] = np.random.Philox(key=key, counter=counter).random_raw(count)
    return words


@dataclass(frozen=True)
class BatchDraws:
    """Per image of a batch: its index, the crop's offset in the padded image, whether to flip."""

    index_N: Tensor
    top_N: Tensor
    left_N: Tensor
    is_flipped_N: Tensor


class Sampler:
    """The endless sequence of training images: one epoch after another, each in its own order.

    A batch is a range of positions in this sequence and may extend into the next epoch.

    Args:
        seed: of the run.
        images: number of training images.
        offsets: possible crop offsets along one side (2 * padding + 1).
        flip: None if mirrored images would belong to another class.
        device: where draws are placed.
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
        """The draws of positions `start` to `stop`, int64 on the device."""
        first, last = start // self._images, (stop - 1) // self._images
        parts = []
        for epoch in range(first, last + 1):
            begin = epoch * self._images
            parts.append(self._draw_epoch(epoch)[:, max(start - begin, 0) : stop - begin])
        return BatchDraws(*(parts[0] if first == last else torch.cat(parts, dim=1)))

    def _draw_epoch(self, epoch: int) -> Tensor:
        """All draws of an epoch on the device: copying each batch's would wait for the device."""
        if epoch not in self._epochs:
            if len(self._epochs) == _CACHED_EPOCHS:
                del self._epochs[next(iter(self._epochs))]
            drawn = _draw_epoch(self._seed, epoch, self._images, self._offsets, self._flip)
            self._epochs[epoch] = torch.from_numpy(drawn).to(self._device)
        return self._epochs[epoch]


def _draw_epoch(
    seed: int, epoch: int, images: int, offsets: int, flip: Flip | None
) -> NDArray[np.int64]:
    """Rows: index, top, left, is_flipped; columns: the images in the epoch's order."""
    keys = random_words(seed, Purpose.ORDER, images, epoch=epoch)
    index = np.argsort(keys, kind="stable")
    draws = random_words(seed, Purpose.CROP, images, epoch=epoch)[index]
    draws, top = np.divmod(draws, np.uint64(offsets))
    draws, left = np.divmod(draws, np.uint64(offsets))
    if flip is None:
        is_flipped = np.zeros_like(draws)
    elif flip is Flip.RANDOM:
        is_flipped = draws % np.uint64(2)
    else:
        is_flipped = is_flipped_alternating(seed, epoch, images)[index]
    return np.stack([index, *(row.astype(np.int64) for row in (top, left, is_flipped))])


def is_flipped_alternating(seed: int, epoch: int, images: int) -> NDArray[np.uint64]:
    """1 per mirrored image: half of them in the first epoch, the other half in the next.

    Jordan 2024, arXiv:2404.00498, section 3.6.
    """
    first = random_words(seed, Purpose.FLIP, images)
    return (first + np.uint64(epoch % 2)) % np.uint64(2)


def split_held_out(images: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the training images, and of the `count` held-out ones; equal for every seed."""
    order = np.argsort(random_words(0, Purpose.HELD_OUT, images), kind="stable")
    return np.sort(order[count:]), np.sort(order[:count])


def evaluation_range(images: int, *, rank: int, world_size: int) -> tuple[int, int]:
    """Start and end of the rank's consecutive share; the last ranks may have fewer images."""
    share = -(-images // world_size)
    return min(rank * share, images), min((rank + 1) * share, images)


def batch_range(iteration: int, batch_size: int, *, rank: int, world_size: int) -> tuple[int, int]:
    """First and last (exclusive) position of a rank's share of the global batch."""
    share = batch_size // world_size
    start = iteration * batch_size + rank * share
    return start, start + share
