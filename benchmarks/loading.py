"""`make bench-streams`: photographs read, cut and mirrored by one process, beside Pillow's way.

The peer is what torchvision's references do: Pillow's images through RandomResizedCrop and a flip.
The photographs are made here.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms import v2

from benchmarks import photographs
from benchmarks.results_table import Row, publish
from service.specs.job_spec import parse_job_spec
from workers.training.data import image_folders
from workers.training.data.image_loader import CroppedImages

PHOTOGRAPHS = 64
ROUNDS = 9


def main() -> int:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photographs"
        photographs.make(folder, count=PHOTOGRAPHS)
        listing = image_folders.list_images(folder).train
        recipe = parse_job_spec(
            {
                "dataset": "folder:photographs",
                "depth": 18,
                "shortcut": "B",
                "recipe": "torchvision-v1",
            }
        ).recipe
        cuts = CroppedImages(listing, recipe, seed=0)
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
                with Image.open(path) as opened:
                    theirs(opened.convert("RGB"))
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


if __name__ == "__main__":
    sys.exit(main())
