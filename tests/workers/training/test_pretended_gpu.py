"""What a GPU would be asked, without one: torch's fake tensors know shapes, types and devices.

They raise where two devices mix, and where a number is read back, which waits for the device.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from service.catalog.architectures import Stem
from tests.workers.training.support import small_spec
from workers.training import evaluation, metric_sums
from workers.training.data import datasets
from workers.training.data.data_source import EvaluationSplit
from workers.training.data.datasets import Images
from workers.training.data.resident_source import ResidentSource
from workers.training.models import resnet

GPU = torch.device("cuda", 0)


@pytest.fixture
def images() -> Iterator[Images]:
    # Read outside the mode: later tests share the cached images.
    images = datasets.read_images("digits", Path("nowhere"), stem=Stem.CIFAR)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield images


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"test_time_augmentation": "hflip", "normalization": "channel"},
        {"validation_images": 100},
    ],
)
def test_batches_are_made_and_evaluated_on_the_gpu_without_waiting_for_it(
    recipe: dict[str, Any], images: Images
) -> None:
    spec = small_spec(recipe)
    source = ResidentSource(images, spec.recipe, seed=0, device=GPU)
    images_NCHW, labels_N = source.load_batch(0, 48)
    assert (images_NCHW.device, labels_N.device) == (GPU, GPU)
    with GPU:
        model = resnet.build_network(spec, source.classes)
    for split in list(EvaluationSplit) if source.validation_images else [EvaluationSplit.TEST]:
        batches = source.load_evaluation_batches(split, rank=0, world_size=1)
        mode = spec.recipe.test_time_augmentation
        sums_S = evaluation.evaluate(model, batches, mode, device=GPU)
        assert sums_S.device == GPU
        with pytest.raises(DataDependentOutputException):
            metric_sums.compute_means(sums_S)  # the only place that waits
