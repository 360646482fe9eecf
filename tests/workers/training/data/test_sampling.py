import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.catalog.recipes import Flip
from service.specs.job_spec import parse_job_spec
from tests.support.core import written
from workers.training.data import sampling
from workers.training.data.sampling import Sampler


def make_sampler(*, images: int, seed: int = 0, flip: Flip | None = Flip.RANDOM) -> Sampler:
    return Sampler(seed, images, offsets=9, flip=flip)


@given(seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 10**5), images=st.integers(1, 300))
def test_an_epoch_contains_every_image_once(seed: int, epoch: int, images: int) -> None:
    sampler = make_sampler(images=images, seed=seed)
    draws = sampler.draw(epoch * images, (epoch + 1) * images)
    assert sorted(draws.index_N.tolist()) == list(range(images))
    assert set(draws.top_N.tolist()) | set(draws.left_N.tolist()) <= set(range(9))


@given(start=st.integers(0, 500), lengths=st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_the_sequence_does_not_depend_on_how_it_is_read(start: int, lengths: list[int]) -> None:
    sampler = make_sampler(images=37)
    expected = sampler.draw(start, start + sum(lengths))
    index: list[int] = []
    top: list[int] = []
    for length in lengths:
        draws = sampler.draw(start, start + length)
        index += draws.index_N.tolist()
        top += draws.top_N.tolist()
        start += length
    assert index == expected.index_N.tolist()
    assert top == expected.top_N.tolist()


def test_the_draws_of_a_seed_never_change() -> None:
    """Runs must resume after an upgrade of the service, so these numbers are written down."""
    draws = make_sampler(images=1437).draw(1430, 1440)
    assert draws.index_N.tolist() == [698, 184, 939, 995, 1212, 1397, 1122, 497, 874, 598]
    crops = 100 * draws.top_N + 10 * draws.left_N + draws.is_flipped_N
    assert crops.tolist() == [131, 131, 730, 611, 300, 760, 361, 550, 111, 220]


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}])
def test_seeds_and_epochs_differ_in_order_and_in_crops(other: dict[str, int]) -> None:
    first = make_sampler(images=100).draw(0, 100)
    start = other.get("epoch", 0) * 100
    second = make_sampler(images=100, seed=other.get("seed", 0)).draw(start, start + 100)
    assert first.index_N.tolist() != second.index_N.tolist()
    by_image = [draws.top_N[draws.index_N.argsort()] for draws in (first, second)]
    assert not torch.equal(*by_image)


def test_crops_and_flips_are_uniform() -> None:
    draws = make_sampler(images=9_000).draw(0, 9_000)
    for offsets in (draws.top_N, draws.left_N):
        # Nine offsets, 1,000 expected of each, standard deviation 30.
        assert (torch.bincount(offsets, minlength=9) - 1_000).abs().max() < 150
    assert abs(draws.is_flipped_N.sum() - 4_500) < 250
    correlation = torch.corrcoef(torch.stack([draws.top_N, draws.left_N]).double())[0, 1]
    assert abs(correlation) < 0.05


def test_nothing_is_flipped_if_flip_is_none() -> None:
    assert not make_sampler(images=100, flip=None).draw(0, 1_000).is_flipped_N.any()


def test_alternating_flips_mirror_each_image_every_second_epoch() -> None:
    sampler = make_sampler(images=100, flip=Flip.ALTERNATING)
    by_image = []
    for epoch in range(4):
        draws = sampler.draw(100 * epoch, 100 * (epoch + 1))
        by_image.append(draws.is_flipped_N[draws.index_N.argsort()])
    assert torch.equal(by_image[0], by_image[2])
    assert torch.equal(by_image[0], 1 - by_image[1])
    assert 30 < by_image[0].sum() < 70


def test_only_the_epochs_that_a_batch_may_span_are_cached() -> None:
    sampler = make_sampler(images=10)
    drawn = [sampler.draw(start, start + 4) for start in range(0, 60, 4)]
    assert len(sampler._epochs) == 2
    assert torch.equal(sampler.draw(0, 4).index_N, drawn[0].index_N)


@settings(max_examples=50)
@given(iteration=st.integers(0, 10**6), batch_size=st.integers(1, 96), data=st.data())
def test_each_number_of_workers_shares_the_same_batches_in_the_same_order(
    iteration: int, batch_size: int, data: st.DataObject
) -> None:
    """Also the micro-batches, whose images batch norm normalizes together."""
    micro = data.draw(st.sampled_from([n for n in range(1, batch_size + 1) if batch_size % n == 0]))
    spec = parse_job_spec(
        written(
            resources={"num_workers": {"min": 1, "max": 16}},
            recipe={"batch_size": batch_size, "micro_batch_size": micro},
        )
    )
    sampler = make_sampler(images=37)
    batch = sampler.draw(iteration * batch_size, (iteration + 1) * batch_size)
    expected = torch.stack([batch.index_N, batch.top_N, batch.left_N, batch.is_flipped_N])
    for world_size in spec.worker_counts:
        shares, sizes = [], []
        for rank in range(world_size):
            start, stop = sampling.batch_range(
                iteration, batch_size, rank=rank, world_size=world_size
            )
            draws = sampler.draw(start, stop)
            shares.append(
                torch.stack([draws.index_N, draws.top_N, draws.left_N, draws.is_flipped_N])
            )
            sizes += [len(part) for part in torch.split(draws.index_N, micro)]
        assert torch.equal(torch.cat(shares, dim=1), expected)
        if micro <= batch_size // spec.worker_counts[-1]:
            assert sizes == [micro] * (batch_size // micro)


@given(images=st.integers(2, 200), share=st.floats(0.01, 0.99))
def test_held_out_images_are_a_fixed_part_of_the_training_images(images: int, share: float) -> None:
    count = max(1, int(images * share))
    kept, held_out = sampling.split_held_out(images, count)
    assert len(held_out) == count
    assert sorted([*kept.tolist(), *held_out.tolist()]) == list(range(images))
    again, _ = sampling.split_held_out(images, count)
    assert again.tolist() == kept.tolist()
