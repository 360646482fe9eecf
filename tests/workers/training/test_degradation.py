"""The observation that the paper starts from, on real images."""

import os
import statistics
from pathlib import Path
from typing import Any

import pytest

from service.specs import job_spec
from tests.workers.training.support import run

# A folder with train/<class>/ and test/<class>/, such as CIFAR-10 as image files.
IMAGE_FOLDER = os.environ.get("RESNETD_TEST_IMAGE_FOLDER")
ITERATIONS = 150


def training_error(depth: int, work_dir: Path, data_dir: Path, **fields: Any) -> float:
    """Of a plain network: the mean over the last 50 iterations, in percent."""
    recipe = {
        "name": "paper-cifar",
        "iterations": 10 * ITERATIONS,  # stopped long before, so nothing is evaluated
        "batch_size": 32,
    }
    spec = job_spec.parse_job_spec({"depth": depth, "shortcut": "none", "recipe": recipe} | fields)
    _, observer = run(spec, work_dir, data_dir=data_dir, stop_at=ITERATIONS)
    return statistics.mean(
        value
        for (series, iteration), value in observer.points.items()
        if series == "train/error" and iteration > ITERATIONS - 50
    )


@pytest.mark.slow
def test_a_plain_network_of_56_layers_learns_digits_worse_than_one_of_20(tmp_path: Path) -> None:
    shallow, deep = (
        training_error(depth, tmp_path / f"{depth}", tmp_path, dataset="digits")
        for depth in (20, 56)
    )
    assert deep > shallow + 20


@pytest.mark.slow
@pytest.mark.timeout(590)
@pytest.mark.skipif(IMAGE_FOLDER is None, reason="RESNETD_TEST_IMAGE_FOLDER is not set")
def test_a_plain_network_of_56_layers_learns_images_worse_than_one_of_20(tmp_path: Path) -> None:
    assert IMAGE_FOLDER is not None
    folder = Path(IMAGE_FOLDER).absolute()
    fields = {
        "dataset": f"folder:{folder.name}",
        "family": "cifar",
        "recipe": {"name": "paper-cifar", "iterations": 10 * ITERATIONS, "batch_size": 64},
    }
    shallow, deep = (
        training_error(depth, tmp_path / f"{depth}", folder.parent, **fields) for depth in (20, 56)
    )
    # The binomial noise of 3,200 images is below one point.
    assert deep > shallow + 5
