"""What a GPU would be asked, without one: torch's fake tensors know shapes, types and devices.

They refuse what mixes two devices, and whatever reads a number back and so waits for the device.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from service.networks import Family
from tests.workers.training.support import small_spec
from workers.training import data, evaluation, resnet, tally
from workers.training.data import Images
from workers.training.sources import Resident

GPU = torch.device("cuda", 0)


@pytest.fixture
def images() -> Iterator[Images]:
    # Read before anything is pretended: who reads them next is given the same.
    read = data.read("digits", Path("nowhere"), family=Family.CIFAR)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield read


@pytest.mark.parametrize(
    "recipe", [{}, {"views": "mirror", "normalisation": "channel"}, {"validation_images": 100}]
)
def test_batches_are_cut_and_tested_on_the_gpu_and_nothing_waits_for_it(
    recipe: dict[str, Any], images: Images
) -> None:
    spec = small_spec(recipe)
    source = Resident(images, spec.recipe, seed=0, device=GPU)
    images_NCHW, labels_N = source.batch(0, 48)
    assert (images_NCHW.device, labels_N.device) == (GPU, GPU)
    with GPU:
        model = resnet.build(spec, source.classes)
    for of_validation in {False, "validation_images" in recipe}:
        views = source.views(of_validation=of_validation, rank=0, world_size=1)
        sums_S = evaluation.evaluate(model, views, spec.recipe.views, device=GPU)
        assert sums_S.device == GPU
        with pytest.raises(DataDependentOutputException):
            tally.means(sums_S)  # the end of a test, and the only place that waits
