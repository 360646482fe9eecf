"""Images to train on: CIFAR-10's, or what RESNETD_BENCH_IMAGES names."""

import os
from pathlib import Path


def to_train_on() -> tuple[str, Path]:
    """The data set's name, and the folder that it lies in."""
    folder = os.environ.get("RESNETD_BENCH_IMAGES")
    if folder is None:
        return "cifar10", Path("var/data")
    path = Path(folder).absolute()
    return f"folder:{path.name}", path.parent
