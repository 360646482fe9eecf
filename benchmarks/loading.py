"""`make bench-loading`: JPEG images per CPU-second that one process decodes, crops and mirrors.

Peer: torchvision's reference transforms of Pillow images, RandomResizedCrop and a flip. The
images are random.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms import v2

from benchmarks import jpeg_images
from benchmarks.results_table import Result, write_results
from service.specs.job_spec import parse_job_spec
from workers.training.data import image_folders
from workers.training.data.streaming_source import CroppedImages

NUM_IMAGES = 64
ROUNDS = 9


def main() -> int:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "images"
        jpeg_images.make_image_folder(folder, count=NUM_IMAGES)
        listing = image_folders.list_images(folder).train
        recipe = parse_job_spec(
            {
                "dataset": "folder:images",
                "depth": 18,
                "shortcut": "B",
                "recipe": "torchvision-v1",
            }
        ).recipe
        crops = CroppedImages(listing, recipe, seed=0)
        transform = v2.Compose(
            [v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()]
        )

        def load_ours() -> None:
            for position in range(NUM_IMAGES):
                crops[position]

        def load_with_pillow() -> None:
            for path in listing.paths:
                with Image.open(path) as image:
                    transform(image.convert("RGB"))

        rounds = [(_cpu_seconds(load_ours), _cpu_seconds(load_with_pillow)) for _ in range(ROUNDS)]
    ours, peer = (NUM_IMAGES / statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    name = "JPEG of 500x375 to crops of 224 vs Pillow and torchvision"
    write_results("loading", [Result(name, "images/CPU-s", ours, peer, is_higher_better=True)])
    return 0


def _cpu_seconds(load: Callable[[], None]) -> float:
    started = time.process_time()
    load()
    return time.process_time() - started


if __name__ == "__main__":
    sys.exit(main())
