"""The checksum of images in memory, by which a result card names the images of its result.

Shapes: N images, H height, W width, C channels.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from service.catalog.datasets import ChecksumScope
from workers.training.observers import DataChecksum


def hash_images(splits: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> NDArray[np.uint8]:
    """SHA-256 as 32 bytes, over the uint8 images (N, H, W, C) and the labels of each split.

    Of each split in the given order: its name and shape as a line of text, the images' bytes, and
    the labels as little-endian 64-bit integers.
    """
    digest = hashlib.sha256()
    for name, (images, labels) in splits.items():
        shape = " ".join(map(str, images.shape))
        digest.update(f"{name} {shape}\n".encode())
        digest.update(np.ascontiguousarray(images).data)
        digest.update(labels.astype("<i8").tobytes())
    return np.frombuffer(digest.digest(), dtype=np.uint8)


def make_checksum(digest: NDArray[np.uint8]) -> DataChecksum:
    """`digest`: of hash_images."""
    return DataChecksum(digest.tobytes().hex(), ChecksumScope.IMAGES)
