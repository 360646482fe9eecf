"""The observation that the paper begins with, on real images."""

import os
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from service.specs import job_spec
from tests.workers.training.support import run
from workers.training.device_context import DeviceContext

# A folder with train/<class>/ and test/<class>/, such as CIFAR-10 unpacked as pictures.
PHOTOGRAPHS = os.environ.get("RESNETD_TEST_PHOTOGRAPHS")
ITERATIONS = 150


def training_error(depth: int, work_path: Path, data_path: Path, **fields: Any) -> float:
    """Of a plain network: mean over the last 50 iterations, in percent."""
    recipe = {
        "name": "paper-cifar",
        "iterations": 10 * ITERATIONS,  # stopped long before: nothing is tested
        "batch_size": 32,
    }
    job = job_spec.parse_job_spec({"depth": depth, "shortcut": "none", "recipe": recipe} | fields)
    place = DeviceContext(0, 1, torch.device("cpu"), threads=1)  # the least hurt on a busy machine
    _, recorder = run(job, work_path, place=place, data_path=data_path, stops_at=ITERATIONS)
    return statistics.mean(
        point.value or 100.0
        for point in recorder.points
        if point.series == "train/error" and point.iteration > ITERATIONS - 50
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
@pytest.mark.skipif(PHOTOGRAPHS is None, reason="no RESNETD_TEST_PHOTOGRAPHS")
def test_a_plain_network_of_56_layers_learns_less_than_one_of_20(tmp_path: Path) -> None:
    assert PHOTOGRAPHS is not None
    photographs = Path(PHOTOGRAPHS).absolute()
    fields = {
        "dataset": f"folder:{photographs.name}",
        "family": "cifar",
        "recipe": {"name": "paper-cifar", "iterations": 10 * ITERATIONS, "batch_size": 64},
    }
    shallow, deep = (
        training_error(depth, tmp_path / f"{depth}", photographs.parent, **fields)
        for depth in (20, 56)
    )
    # Binomial noise of 3,200 images is below one point.
    assert deep > shallow + 5
