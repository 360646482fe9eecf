"""Random JPEG images of 500x375 pixels and quality 90, as most of ImageNet's are."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("first", "second")
_WIDTH, _HEIGHT = 500, 375


def make_image_folder(folder: Path, *, count: int) -> None:
    """Writes an image folder with `count` training images and two test images."""
    random = np.random.default_rng(0)
    for split, images_per_class in (("train", count // len(CLASSES)), ("test", 1)):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for number in range(images_per_class):
                _make_image(random).save(folder / split / name / f"{number}.jpg", quality=90)


def _make_image(random: np.random.Generator) -> Image.Image:
    coarse = random.integers(0, 256, (_HEIGHT // 16, _WIDTH // 16, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC)
    noise = random.integers(-12, 12, (_HEIGHT, _WIDTH, 3))
    return Image.fromarray(np.clip(np.asarray(smooth).astype(int) + noise, 0, 255).astype(np.uint8))
