import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from service.catalog.recipes import Flip, Normalization
from workers.training.data import augmentation
from workers.training.data.augmentation import BatchAugmenter, Normalizer, Sampler
from workers.training.data.datasets import Images, Split

CPU = torch.device("cpu")
FLIP = Flip.RANDOM


def make_images(*, count: int, height: int, width: int, padding: int, flip: bool) -> Images:
    generator = torch.Generator().manual_seed(count)
    split = Split(
        torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator),
        torch.randint(0, 10, (count,), generator=generator),
    )
    return Images(split, split, classes=10, flip=flip, padding=padding)


def make_augmenter(images: Images, *, seed: int, flip: Flip = FLIP) -> BatchAugmenter:
    normaliser = Normalizer.of(images.train, Normalization.PIXEL_MEAN, CPU)
    return BatchAugmenter(images, normaliser, seed=seed, device=CPU, flip=flip)


def cut_one_by_one(images: Images, sampler: Sampler, start: int, stop: int) -> Tensor:
    """The paper's preprocessing as it reads (section 4.2), an image at a time."""
    mean_HWC = augmentation.mean_image(images.train)
    height, width = mean_HWC.shape[:2]
    draws = sampler.draw(start, stop)
    cut = []
    for index, top, left, is_flipped in zip(
        draws.index_N, draws.top_N, draws.left_N, draws.is_flipped_N, strict=True
    ):
        image_CHW = (images.train.images_NHWC[index].float() - mean_HWC).permute(2, 0, 1)
        padded_CHW = functional.pad(image_CHW, (images.padding,) * 4)
        crop_CHW = padded_CHW[:, top : top + height, left : left + width]
        cut.append((crop_CHW.flip(2) if is_flipped else crop_CHW) / 255)
    return torch.stack(cut)


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
def test_batches_are_the_papers_preprocessing_bit_for_bit(
    images: Images, start: int, length: int
) -> None:
    augmenter = make_augmenter(images, seed=3)
    images_NCHW, labels_N = augmenter.batch(start, start + length)
    assert torch.equal(
        images_NCHW, cut_one_by_one(images, augmenter.sampler, start, start + length)
    )
    index_N = augmenter.sampler.draw(start, start + length).index_N
    assert torch.equal(labels_N, images.train.labels_N[index_N])


def test_batches_lie_in_memory_with_channels_last() -> None:
    images = make_images(count=4, height=8, width=8, padding=1, flip=True)
    images_NCHW, _ = make_augmenter(images, seed=0).batch(0, 4)
    assert images_NCHW.is_contiguous(memory_format=torch.channels_last)


@given(seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 10**5), images=st.integers(1, 300))
def test_an_epoch_shows_every_image_once(seed: int, epoch: int, images: int) -> None:
    draws = Sampler(seed, images, offsets=9, flip=FLIP).draw(epoch * images, (epoch + 1) * images)
    assert sorted(draws.index_N.tolist()) == list(range(images))
    assert set(draws.top_N.tolist()) | set(draws.left_N.tolist()) <= set(range(9))


@given(start=st.integers(0, 500), pieces=st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_the_stream_is_the_same_however_it_is_cut(start: int, pieces: list[int]) -> None:
    sampler = Sampler(seed=1, images=37, offsets=3, flip=FLIP)
    whole = sampler.draw(start, start + sum(pieces))
    index: list[int] = []
    top: list[int] = []
    for piece in pieces:
        draws = sampler.draw(start, start + piece)
        index += draws.index_N.tolist()
        top += draws.top_N.tolist()
        start += piece
    assert index == whole.index_N.tolist()
    assert top == whole.top_N.tolist()


def test_the_draws_of_a_seed_never_change() -> None:
    draws = Sampler(seed=0, images=1437, offsets=9, flip=FLIP).draw(1430, 1440)
    # Written down once: a run must resume after an upgrade of the service.
    assert draws.index_N.tolist() == [105, 535, 544, 1172, 341, 64, 601, 1131, 954, 984]
    assert (100 * draws.top_N + 10 * draws.left_N + draws.is_flipped_N).tolist() == [
        270,
        271,
        260,
        360,
        381,
        840,
        710,
        211,
        740,
        581,
    ]


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}])
def test_seeds_and_epochs_have_orders_of_their_own(other: dict[str, int]) -> None:
    first = Sampler(seed=0, images=100, offsets=9, flip=FLIP).draw(0, 100)
    start = other.get("epoch", 0) * 100
    second = Sampler(seed=other.get("seed", 0), images=100, offsets=9, flip=FLIP).draw(
        start, start + 100
    )
    assert first.index_N.tolist() != second.index_N.tolist()
    by_image = [draws.top_N[draws.index_N.argsort()] for draws in (first, second)]
    assert not torch.equal(*by_image)


def test_crops_and_flips_are_drawn_evenly() -> None:
    draws = Sampler(seed=0, images=9_000, offsets=9, flip=FLIP).draw(0, 9_000)
    for offsets in (draws.top_N, draws.left_N):
        # Nine places, 1,000 expected at each, standard deviation 30.
        assert (torch.bincount(offsets, minlength=9) - 1_000).abs().max() < 150
    assert abs(draws.is_flipped_N.sum() - 4_500) < 250
    correlation = torch.corrcoef(torch.stack([draws.top_N, draws.left_N]).double())[0, 1]
    assert abs(correlation) < 0.05


def test_nothing_is_flipped_where_a_mirror_image_is_of_another_class() -> None:
    draws = Sampler(seed=0, images=100, offsets=3, flip=None).draw(0, 1_000)
    assert not draws.is_flipped_N.any()


def test_test_images_only_lose_the_mean() -> None:
    images = make_images(count=5, height=4, width=6, padding=2, flip=True)
    normaliser = Normalizer.of(images.train, Normalization.PIXEL_MEAN, CPU)
    images_NCHW = normaliser(images.test.images_NHWC)
    assert images_NCHW.shape == (5, 3, 4, 6)
    assert torch.allclose(images_NCHW.mean(dim=0), torch.zeros(3, 4, 6), atol=1e-6)


@given(iteration=st.integers(0, 10**6), share=st.integers(1, 64))
def test_any_number_of_workers_share_the_same_global_batch(iteration: int, share: int) -> None:
    batch_size = 4 * share
    whole = list(range(iteration * batch_size, (iteration + 1) * batch_size))
    for world_size in (1, 2, 4):
        places: list[int] = []
        for rank in range(world_size):
            places += range(
                *augmentation.batch_range(iteration, batch_size, rank=rank, world_size=world_size)
            )
        assert places == whole


def test_channels_are_normalised_to_mean_0_and_deviation_1() -> None:
    images = make_images(count=50, height=4, width=6, padding=2, flip=True)
    images_NCHW = Normalizer.of(images.train, Normalization.CHANNEL, CPU)(images.train.images_NHWC)
    assert torch.allclose(images_NCHW.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(images_NCHW.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-3)


def test_alternating_flips_mirror_every_image_every_second_epoch() -> None:
    sampler = Sampler(seed=2, images=100, offsets=3, flip=Flip.ALTERNATING)
    by_image = []
    for epoch in range(4):
        draws = sampler.draw(100 * epoch, 100 * (epoch + 1))
        by_image.append(draws.is_flipped_N[draws.index_N.argsort()])
    assert torch.equal(by_image[0], by_image[2])
    assert torch.equal(by_image[0], 1 - by_image[1])
    assert 30 < by_image[0].sum() < 70


@given(images=st.integers(2, 200), share=st.floats(0.01, 0.99))
def test_images_are_held_out_once_and_alike_for_ever(images: int, share: float) -> None:
    count = max(1, int(images * share))
    kept, held = augmentation.split_held_out(images, count)
    assert len(held) == count
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(images))


@pytest.mark.parametrize("normalization", Normalization)
def test_images_are_normalised_alike_for_training_and_for_testing(
    normalization: Normalization,
) -> None:
    images = make_images(count=6, height=4, width=4, padding=0, flip=False)
    normaliser = Normalizer.of(images.train, normalization, CPU)
    augmenter = BatchAugmenter(images, normaliser, seed=0, device=CPU)
    trained_NCHW, _ = augmenter.batch(0, 6)
    index_N = augmenter.sampler.draw(0, 6).index_N
    assert torch.equal(trained_NCHW, normaliser(images.train.images_NHWC[index_N]))


def test_a_channel_that_never_changes_stays_a_number() -> None:
    images = Split(
        torch.full((4, 2, 2, 3), 7, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64)
    )
    normal_NCHW = Normalizer.of(images, Normalization.CHANNEL, CPU)(images.images_NHWC)
    assert torch.equal(normal_NCHW, torch.zeros(4, 3, 2, 2))


def test_a_sampler_keeps_the_epochs_that_a_batch_may_lie_across_and_no_others() -> None:
    sampler = Sampler(seed=0, images=10, offsets=3, flip=None)
    drawn = [sampler.draw(start, start + 4) for start in range(0, 60, 4)]
    assert len(sampler._epochs) == 2
    again = sampler.draw(0, 4)
    assert torch.equal(again.index_N, drawn[0].index_N)
