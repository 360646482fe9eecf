from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from service.catalog.datasets import ChecksumScope
from service.catalog.recipes import Normalization
from tests.workers.training.support import small_spec
from workers.training.data import normalization
from workers.training.data.data_source import EvaluationSplit
from workers.training.data.datasets import Images, Split
from workers.training.data.resident_source import ResidentSource
from workers.training.errors import DatasetUnusable
from workers.training.observers import DataChecksum

CPU = torch.device("cpu")
CHECKSUM = DataChecksum("0" * 64, ChecksumScope.IMAGES)


def make_images(*, count: int, height: int, width: int, padding: int, flip: bool) -> Images:
    generator = torch.Generator().manual_seed(count)
    split = Split(
        torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator),
        torch.randint(0, 10, (count,), generator=generator),
    )
    return Images(
        split, split, class_names=list("0123456789"), flip=flip, padding=padding, checksum=CHECKSUM
    )


def make_source(images: Images, **recipe: Any) -> ResidentSource:
    return ResidentSource(images, small_spec(recipe).recipe, seed=3, device=CPU)


def crop_one_by_one(images: Images, source: ResidentSource, start: int, stop: int) -> Tensor:
    """The paper's preprocessing as it is described (section 4.2), one image at a time."""
    mean_HWC = normalization.mean_image(images.train.images_NHWC)
    height, width = mean_HWC.shape[:2]
    draws = source.sampler.draw(start, stop)
    crops = []
    for index, top, left, is_flipped in zip(
        draws.index_N, draws.top_N, draws.left_N, draws.is_flipped_N, strict=True
    ):
        image_CHW = (images.train.images_NHWC[index].float() - mean_HWC).permute(2, 0, 1)
        padded_CHW = functional.pad(image_CHW, (images.padding,) * 4)
        crop_CHW = padded_CHW[:, top : top + height, left : left + width]
        crops.append((crop_CHW.flip(2) if is_flipped else crop_CHW) / 255)
    return torch.stack(crops)


@settings(max_examples=40)
@given(
    images=st.builds(
        make_images,
        count=st.integers(1, 9),
        height=st.integers(1, 6),
        width=st.integers(1, 6),
        padding=st.integers(0, 3),
        flip=st.booleans(),
    ),
    start=st.integers(0, 50),
    length=st.integers(1, 20),
)
def test_batches_equal_the_papers_preprocessing_bit_for_bit(
    images: Images, start: int, length: int
) -> None:
    source = make_source(images)
    images_NCHW, labels_N = source.load_batch(start, start + length)
    expected_NCHW = crop_one_by_one(images, source, start, start + length)
    assert torch.equal(images_NCHW, expected_NCHW)
    index_N = source.sampler.draw(start, start + length).index_N
    assert torch.equal(labels_N, images.train.labels_N[index_N])


def test_batches_are_channels_last_in_memory() -> None:
    images = make_images(count=4, height=8, width=8, padding=1, flip=True)
    images_NCHW, _ = make_source(images).load_batch(0, 4)
    assert images_NCHW.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", Normalization)
def test_images_are_normalized_alike_for_training_and_evaluation(kind: Normalization) -> None:
    images = make_images(count=6, height=4, width=4, padding=0, flip=False)
    source = make_source(images, normalization=kind)
    trained_NCHW, _ = source.load_batch(0, 6)
    index_N = source.sampler.draw(0, 6).index_N
    batches = source.load_evaluation_batches(EvaluationSplit.TEST, rank=0, world_size=1)
    ((evaluated_NCHW,), _) = next(batches)
    assert torch.equal(trained_NCHW, evaluated_NCHW[index_N])


def test_held_out_images_are_evaluated_and_not_trained_on() -> None:
    images = make_images(count=9, height=4, width=4, padding=0, flip=False)
    source = make_source(images, validation_images=3)
    assert (source.train_images, source.validation_images, source.test_images) == (6, 3, 9)
    batches = source.load_evaluation_batches(EvaluationSplit.VALIDATION, rank=0, world_size=1)
    ((held_out_NCHW,), _) = next(batches)
    trained_NCHW, _ = source.load_batch(0, 6)
    assert len(held_out_NCHW) == 3
    assert not any(
        torch.equal(held_out_CHW, trained_CHW)
        for held_out_CHW in held_out_NCHW
        for trained_CHW in trained_NCHW
    )


def test_training_images_are_evaluated_without_augmentation() -> None:
    images = make_images(count=6, height=4, width=5, padding=2, flip=True)
    source = make_source(images)
    batches = source.load_evaluation_batches(
        EvaluationSplit.TRAIN, rank=0, world_size=1, chosen=np.array([1, 4])
    )
    (((evaluated_NCHW,), labels_N),) = batches
    assert torch.equal(evaluated_NCHW, source.normalizer(images.train.images_NHWC[[1, 4]]))
    assert torch.equal(labels_N, images.train.labels_N[[1, 4]])


def test_at_least_one_image_must_remain_for_training() -> None:
    images = make_images(count=4, height=2, width=2, padding=0, flip=False)
    with pytest.raises(DatasetUnusable, match="only 4 training images"):
        make_source(images, validation_images=4)
