import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from service.catalog import recipes
from service.catalog.architectures import Family
from service.catalog.recipes import Recipe, TtaMode
from tests.workers.training.support import digests, run
from tests.workers.training.support import small_spec as any_spec
from workers.training.data import crops, image_decoding, image_folders
from workers.training.data.image_loader import StreamingSource
from workers.training.errors import DatasetUnusable

CPU = torch.device("cpu")


def recipe(**fields: Any) -> Recipe:
    written = {"name": "paper-imagenet", "batch_size": 4, "micro_batch_size": None} | fields
    return recipes.build_recipe(written, family=Family.IMAGENET, depth=18)


def stream(
    folder: Path, *, processes: int = 0, is_decoded_there: bool = False, **fields: Any
) -> StreamingSource:
    return StreamingSource(
        folder,
        recipe(**fields),
        seed=1,
        device=CPU,
        processes=processes,
        is_decoded_there=is_decoded_there,
    )


def test_batches_are_the_same_however_they_are_reached_and_by_any_number_of_ranks(
    photographs: Path,
) -> None:
    source = stream(photographs)
    whole = [source.batch(4 * number, 4 * number + 4) for number in range(4)]
    third, _ = stream(photographs).batch(8, 12)  # as a run that was resumed
    assert torch.equal(third, whole[2][0])
    for rank in (0, 1):
        part = stream(photographs)
        for number, (images_NCHW, labels_N) in enumerate(whole):
            start = 4 * number + 2 * rank
            images_mine, labels_mine = part.batch(start, start + 2)
            assert torch.equal(images_mine, images_NCHW[2 * rank : 2 * rank + 2])
            assert torch.equal(labels_mine, labels_N[2 * rank : 2 * rank + 2])


@pytest.mark.slow
def test_processes_that_read_ahead_make_the_same_batches(photographs: Path) -> None:
    here, beside = stream(photographs), stream(photographs, processes=2)
    for number in range(4):
        images_here, _ = here.batch(4 * number, 4 * number + 4)
        images_beside, _ = beside.batch(4 * number, 4 * number + 4)
        assert torch.equal(images_here, images_beside)


def test_an_epoch_shows_every_photograph_once_and_each_time_anew(photographs: Path) -> None:
    source = stream(photographs, pca_lighting=False)
    first, labels = source.batch(0, 10)
    second, _ = stream(photographs, pca_lighting=False).batch(10, 20)
    assert sorted(labels.tolist()) == [0] * 5 + [1] * 5
    assert first.shape == (10, 3, 224, 224)
    assert not any(torch.equal(a, b) for a in first for b in second)


@given(
    crop=st.sampled_from(["scale_jitter", "random_resized_crop"]),
    width=st.integers(1, 4_000),
    height=st.integers(1, 4_000),
    epoch=st.integers(0, 10**5),
    image=st.integers(0, 2**31),
)
def test_a_crop_lies_inside_its_photograph_and_is_drawn_from_its_place_alone(
    crop: str, width: int, height: int, epoch: int, image: int
) -> None:
    place = {"seed": 3, "epoch": epoch, "image": image, "width": width, "height": height}
    drawn = crops.draw_crop(recipe(crop=crop), **place)
    left, top, right, bottom = drawn.box
    assert -1e-6 <= left < right <= width + 1e-6
    assert -1e-6 <= top < bottom <= height + 1e-6
    again = crops.draw_crop(recipe(crop=crop), **place)
    assert (again.box, again.is_flipped) == (drawn.box, drawn.is_flipped)
    if crop == "scale_jitter":
        assert right - left == pytest.approx(bottom - top)
        assert 224 / 480 - 1e-9 <= (right - left) / min(width, height) <= 224 / 256 + 1e-9


def test_light_varies_along_the_first_colour_most() -> None:
    lights = torch.stack(
        [
            crops.draw_crop(recipe(), seed=0, epoch=0, image=n, width=9, height=9).light_C
            for n in range(2_000)
        ]
    )
    covariance_CC = torch.cov(lights.T)
    deviations = torch.linalg.eigvalsh(covariance_CC).sqrt().flip(0)
    wanted = 255 * 0.1 * torch.tensor([0.2175, 0.0188, 0.0045])
    assert torch.allclose(deviations, wanted, rtol=0.1)


@pytest.mark.parametrize(
    ("seen", "sizes"),
    [
        ("none", [(224, 224)]),
        ("hflip", [(224, 224)] * 2),
        ("ten_crop", [(224, 224)] * 10),
        ("multi_scale", [(224, 336), (256, 384), (384, 576), (480, 720), (640, 960)]),
    ],
)
def test_views_of_a_test_image(seen: str, sizes: list[tuple[int, int]]) -> None:
    photograph_CHW = (torch.arange(3 * 40 * 60) % 256).to(torch.uint8).reshape(3, 40, 60)
    found = crops.evaluation_crops(photograph_CHW, TtaMode(seen))
    assert [tuple(each.shape[:2]) for each in found] == sizes
    if seen == "ten_crop":
        assert len({each.numpy().tobytes() for each in found}) == 10
        assert torch.equal(found[7], found[2].flip(1))


def test_a_cut_is_the_part_of_the_photograph_that_its_box_names() -> None:
    photograph_CHW = torch.zeros(3, 100, 200, dtype=torch.uint8)
    photograph_CHW[:, 25:75, 50:100] = 200
    inside_HWC = crops.crop_image(photograph_CHW, (50.3, 24.8, 99.9, 75.2))
    assert inside_HWC.shape == (224, 224, 3)
    assert (inside_HWC == 200).all()
    half_HWC = crops.crop_image(photograph_CHW, (0.0, 25.0, 100.0, 75.0))
    assert (half_HWC[:, :100] == 0).all()
    assert (half_HWC[:, 124:] == 200).all()
    assert crops.crop_image(photograph_CHW, (199.7, 99.8, 200.0, 100.0)).shape == (224, 224, 3)


@pytest.mark.parametrize("kind", ["jpeg", "png", "bmp", "tiff", "webp"])
def test_photographs_of_every_kind_are_read_as_pillow_reads_them(tmp_path: Path, kind: str) -> None:
    pixels_HWC = np.random.RandomState(0).randint(0, 256, (8, 8, 3)).astype(np.uint8)
    image = Image.fromarray(pixels_HWC).resize((64, 48), Image.Resampling.BICUBIC)
    path = tmp_path / f"image.{kind}"
    image.save(path)
    found_CHW = image_decoding.open_image(path)
    expected_HWC = np.asarray(image_folders.open_image(path)).astype(int)
    assert found_CHW.shape == (3, 48, 64)
    assert np.abs(found_CHW.permute(1, 2, 0).numpy() - expected_HWC).max() <= 2


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"no image")
    with pytest.raises(DatasetUnusable, match=r"broken\.jpg is not an image"):
        image_decoding.open_image(path)


def test_the_test_images_are_shared_by_the_ranks(photographs: Path) -> None:
    labels: list[int] = []
    for rank in range(4):
        source = stream(photographs)
        for _, labels_N in source.views(of_validation=False, rank=rank, world_size=4):
            labels += labels_N.tolist()
    assert sorted(labels) == [0, 0, 0, 1, 1, 1]


def test_more_images_cannot_be_held_out_than_there_are(photographs: Path) -> None:
    with pytest.raises(DatasetUnusable, match="10 training images"):
        stream(photographs, validation_images=10)


def test_the_mean_is_measured_once_until_an_image_changes(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photographs"
    shutil.copytree(photographs, folder)
    opened: list[Path] = []
    open_photograph = image_decoding.open_image

    def open_and_count(path: Path) -> Tensor:
        opened.append(path)
        return open_photograph(path)

    monkeypatch.setattr(image_decoding, "open_image", open_and_count)
    first, again = stream(folder).normaliser, stream(folder).normaliser
    assert len(opened) == 10
    assert torch.equal(first.mean_HWC, again.mean_HWC)
    assert torch.equal(first.deviation_C, again.deviation_C)

    changed = folder / "train" / "wren" / "0.jpg"
    Image.new("RGB", (60, 40)).save(changed)
    assert not torch.equal(stream(folder).normaliser.mean_HWC, first.mean_HWC)
    channels = stream(folder, normalization="channel").normaliser
    assert (channels.deviation_C < 128).all()
    assert len(stream(folder, validation_images=2).normaliser.mean_HWC) == 224
    assert len(opened) == 10 + 10 + 10 + 8


@pytest.mark.slow
@pytest.mark.parametrize("seen", ["ten_crop", "multi_scale"])
def test_a_streamed_run_is_resumed_bit_for_bit(
    photographs: Path, tmp_path: Path, seen: str
) -> None:
    job = any_spec(
        {
            "name": "paper-imagenet",
            "iterations": 2,
            "batch_size": 4,
            "micro_batch_size": 2,
            "evaluate_every": 2,
            "checkpoint_every": 1,
            "test_time_augmentation": seen,
            "exports": [],
            "warmup_learning_rate": None,
            "warmup_until_error": None,
        },
        dataset=f"folder:{photographs.name}",
        family="cifar",  # an eighth of the multiply-adds
    )
    _, whole = run(job, tmp_path / "whole", data_path=photographs.parent)
    _, resumed = run(job, tmp_path / "resumed", data_path=photographs.parent, resume=whole.files[1])
    assert digests(resumed.files[2]) == digests(whole.files[2])
