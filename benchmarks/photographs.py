"""Photographs to read and decode: 500x375 pixels, JPEG of quality 90, as most of ImageNet's are."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("one", "other")
_WIDTH, _HEIGHT = 500, 375


def make(folder: Path, *, count: int) -> None:
    """An image folder with so many to train on, and two to test on."""
    random = np.random.default_rng(0)
    for split, of_class in (("train", count // len(CLASSES)), ("test", 1)):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for number in range(of_class):
                _picture(random).save(folder / split / name / f"{number}.jpg", quality=90)


def _picture(random: np.random.Generator) -> Image.Image:
    rough = random.integers(0, 256, (_HEIGHT // 16, _WIDTH // 16, 3), dtype=np.uint8)
    smooth = Image.fromarray(rough).resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC)
    grain = random.integers(-12, 12, (_HEIGHT, _WIDTH, 3))
    return Image.fromarray(np.clip(np.asarray(smooth).astype(int) + grain, 0, 255).astype(np.uint8))
