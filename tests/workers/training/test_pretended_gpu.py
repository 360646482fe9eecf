"""What a GPU would be asked, without one: torch's fake tensors know shapes, types and devices.

They refuse what mixes two devices, and whatever reads a number back and so waits for the device.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from service.catalog.architectures import Family
from tests.workers.training.support import small_spec
from workers.training import evaluation, metric_sums
from workers.training.data import datasets
from workers.training.data.data_source import ResidentSource
from workers.training.data.datasets import Images
from workers.training.models import resnet

GPU = torch.device("cuda", 0)


@pytest.fixture
def images() -> Iterator[Images]:
    # Read before anything is pretended: who reads them next is given the same.
    read = datasets.read_images("digits", Path("nowhere"), family=Family.CIFAR)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield read


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"test_time_augmentation": "hflip", "normalization": "channel"},
        {"validation_images": 100},
    ],
)
def test_batches_are_cut_and_tested_on_the_gpu_and_nothing_waits_for_it(
    recipe: dict[str, Any], images: Images
) -> None:
    spec = small_spec(recipe)
    source = ResidentSource(images, spec.recipe, seed=0, device=GPU)
    images_NCHW, labels_N = source.batch(0, 48)
    assert (images_NCHW.device, labels_N.device) == (GPU, GPU)
    with GPU:
        model = resnet.build_network(spec, source.classes)
    for of_validation in {False, "validation_images" in recipe}:
        views = source.views(of_validation=of_validation, rank=0, world_size=1)
        sums_S = evaluation.evaluate(model, views, spec.recipe.test_time_augmentation, device=GPU)
        assert sums_S.device == GPU
        with pytest.raises(DataDependentOutputException):
            metric_sums.means(sums_S)  # the end of a test, and the only place that waits
