"""Which images the training benchmarks use: CIFAR-10, or those of RESNETD_BENCH_IMAGES."""

import os
from pathlib import Path


def locate_images() -> tuple[str, Path]:
    """The dataset's name in a spec, and the data folder that contains it."""
    folder = os.environ.get("RESNETD_BENCH_IMAGES")
    if folder is None:
        return "cifar10", Path("var/data")
    path = Path(folder).absolute()
    return f"folder:{path.name}", path.parent
