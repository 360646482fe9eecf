"""The jobs on several machines."""

import io
import zipfile

from PIL import Image

from tests.chaos.workload import JobCase

# Some 20 s of training over a bridge on two cores, with checkpoints in between.
TWO_HOSTS = JobCase(
    "two hosts",
    {
        "dataset": "digits",
        "depth": 8,
        "shortcut": "A",
        "name": "two-hosts",
        "recipe": {
            "name": "quick",
            "iterations": 1_500,
            "evaluate_every": 500,
            "checkpoint_every": 100,
        },
        "resources": {"num_workers": 2},
    },
)

# Waits for the end of the other.
WAITING = JobCase(
    "waiting",
    {
        "dataset": "digits",
        "depth": 8,
        "shortcut": "A",
        "name": "waiting",
        "recipe": {"name": "quick", "iterations": 20},
    },
)

UPLOADED = JobCase(
    "uploaded images",
    {
        "dataset": "folder:squares",
        "depth": 8,
        "shortcut": "A",
        "stem": "cifar",
        "name": "uploaded-images",
        "recipe": {
            "name": "quick",
            "iterations": 20,
            "batch_size": 16,
            "evaluate_every": 10,
            "checkpoint_every": 10,
        },
        "resources": {"num_workers": 2},
    },
)


def make_archive() -> bytes:
    """Of the dataset of UPLOADED: squares of two colours, each of another brightness."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for label, name in enumerate(("blue", "red")):
            for number in range(40):
                colour = [0, 0, 0]
                colour[2 - 2 * label] = 100 + 3 * number
                image = io.BytesIO()
                Image.new("RGB", (32, 32), tuple(colour)).save(image, "PNG")
                zipped.writestr(f"squares/{name}/{number:02}.png", image.getvalue())
    return archive.getvalue()
