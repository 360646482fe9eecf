"""`make bench-streams`: photographs read, cut and mirrored by one process, beside Pillow's way.

The peer is what torchvision's references do: Pillow's images through RandomResizedCrop and a flip.
The photographs are made here: 500x375 pixels, JPEG of quality 90, as most of ImageNet's are.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from benchmarks.sheet import Row, publish
from service.spec import parse
from workers.training import folders
from workers.training.streams import Cuts

PHOTOGRAPHS = 64
ROUNDS = 9
WIDTH, HEIGHT = 500, 375


def main() -> int:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photographs"
        _make(folder)
        listing = folders.list_images(folder).train
        recipe = parse(
            {
                "dataset": "folder:photographs",
                "depth": 18,
                "shortcut": "B",
                "recipe": "torchvision-v1",
            }
        ).recipe
        cuts = Cuts(listing, recipe, seed=0)
        theirs = v2.Compose(
            [v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()]
        )
        ours_seconds, their_seconds = [], []
        for _ in range(ROUNDS):
            began = time.process_time()
            for place in range(PHOTOGRAPHS):
                cuts[place]
            ours_seconds.append(time.process_time() - began)
            began = time.process_time()
            for path in listing.paths:
                with Image.open(path) as photograph:
                    theirs(photograph.convert("RGB"))
            their_seconds.append(time.process_time() - began)
    row = Row(
        "photographs of 500x375, cut to 224, vs Pillow and transforms of an image",
        "images/CPU-s",
        PHOTOGRAPHS / statistics.median(ours_seconds),
        PHOTOGRAPHS / statistics.median(their_seconds),
        is_more_better=True,
    )
    publish("streams", [row])
    return 0


def _make(folder: Path) -> None:
    random = np.random.default_rng(0)
    for split, count in (("train", PHOTOGRAPHS // 2), ("test", 1)):
        for name in ("one", "other"):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                rough = random.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
                smooth = Image.fromarray(rough).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
                grain = random.integers(-12, 12, (HEIGHT, WIDTH, 3))
                pixels = np.clip(np.asarray(smooth).astype(int) + grain, 0, 255).astype(np.uint8)
                path = folder / split / name / f"{number}.jpg"
                Image.fromarray(pixels).save(path, quality=90)


if __name__ == "__main__":
    sys.exit(main())
