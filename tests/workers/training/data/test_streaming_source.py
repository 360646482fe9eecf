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
from tests.workers.training.support import CPU, digests, run, small_spec
from workers.training.data import crops, image_decoding, image_folders
from workers.training.data.data_source import EvaluationSplit
from workers.training.data.streaming_source import StreamingSource
from workers.training.errors import DatasetUnusable


def recipe(**fields: Any) -> Recipe:
    written = {"name": "paper-imagenet", "batch_size": 4, "micro_batch_size": None} | fields
    return recipes.build_recipe(written, family=Family.IMAGENET, depth=18)


def stream(
    folder: Path, *, num_processes: int = 0, decodes_on_device: bool = False, **fields: Any
) -> StreamingSource:
    return StreamingSource(
        folder,
        recipe(**fields),
        seed=1,
        device=CPU,
        num_processes=num_processes,
        decodes_on_device=decodes_on_device,
    )


def test_batches_do_not_depend_on_where_reading_starts_or_on_the_number_of_ranks(
    image_folder: Path,
) -> None:
    source = stream(image_folder)
    batches = [source.load_batch(4 * number, 4 * number + 4) for number in range(4)]
    third, _ = stream(image_folder).load_batch(8, 12)  # as a run that was resumed
    assert torch.equal(third, batches[2][0])
    for rank in (0, 1):
        part = stream(image_folder)
        for number, (images_NCHW, labels_N) in enumerate(batches):
            start = 4 * number + 2 * rank
            images_mine, labels_mine = part.load_batch(start, start + 2)
            assert torch.equal(images_mine, images_NCHW[2 * rank : 2 * rank + 2])
            assert torch.equal(labels_mine, labels_N[2 * rank : 2 * rank + 2])


@pytest.mark.slow
def test_reader_processes_make_the_same_batches(image_folder: Path) -> None:
    own, parallel = stream(image_folder), stream(image_folder, num_processes=2)
    for number in range(4):
        own_NCHW, _ = own.load_batch(4 * number, 4 * number + 4)
        parallel_NCHW, _ = parallel.load_batch(4 * number, 4 * number + 4)
        assert torch.equal(own_NCHW, parallel_NCHW)


def test_an_epoch_contains_every_image_once_with_new_crops(image_folder: Path) -> None:
    source = stream(image_folder, pca_lighting=False)
    first, labels = source.load_batch(0, 10)
    second, _ = stream(image_folder, pca_lighting=False).load_batch(10, 20)
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
def test_a_crop_is_inside_its_image_and_depends_on_seed_epoch_and_image_alone(
    crop: str, width: int, height: int, epoch: int, image: int
) -> None:
    key = {"seed": 3, "epoch": epoch, "image": image, "width": width, "height": height}
    drawn = crops.draw_crop(recipe(crop=crop), **key)
    left, top, right, bottom = drawn.box
    assert -1e-6 <= left < right <= width + 1e-6
    assert -1e-6 <= top < bottom <= height + 1e-6
    again = crops.draw_crop(recipe(crop=crop), **key)
    assert (again.box, again.is_flipped) == (drawn.box, drawn.is_flipped)
    if crop == "scale_jitter":
        assert right - left == pytest.approx(bottom - top)
        assert 224 / 480 - 1e-9 <= (right - left) / min(width, height) <= 224 / 256 + 1e-9


def test_lighting_has_the_published_standard_deviations() -> None:
    lighting_NC = torch.stack(
        [
            crops.draw_crop(recipe(), seed=0, epoch=0, image=n, width=9, height=9).lighting_C
            for n in range(2_000)
        ]
    )
    covariance_CC = torch.cov(lighting_NC.T)
    deviations = torch.linalg.eigvalsh(covariance_CC).sqrt().flip(0)
    expected = 255 * 0.1 * torch.tensor([0.2175, 0.0188, 0.0045])
    assert torch.allclose(deviations, expected, rtol=0.1)


@pytest.mark.parametrize(
    ("mode", "sizes"),
    [
        ("none", [(224, 224)]),
        ("hflip", [(224, 224)] * 2),
        ("ten_crop", [(224, 224)] * 10),
        ("multi_scale", [(224, 336), (256, 384), (384, 576), (480, 720), (640, 960)]),
    ],
)
def test_views_of_an_evaluation_image(mode: str, sizes: list[tuple[int, int]]) -> None:
    image_CHW = (torch.arange(3 * 40 * 60) % 256).to(torch.uint8).reshape(3, 40, 60)
    views = crops.evaluation_crops(image_CHW, TtaMode(mode))
    assert [tuple(view_HWC.shape[:2]) for view_HWC in views] == sizes
    if mode == "ten_crop":
        assert len({view_HWC.numpy().tobytes() for view_HWC in views}) == 10
        assert torch.equal(views[7], views[2].flip(1))


def test_a_crop_is_the_part_of_the_image_inside_its_box() -> None:
    image_CHW = torch.zeros(3, 100, 200, dtype=torch.uint8)
    image_CHW[:, 25:75, 50:100] = 200
    inside_HWC = crops.crop_image(image_CHW, (50.3, 24.8, 99.9, 75.2))
    assert inside_HWC.shape == (224, 224, 3)
    assert (inside_HWC == 200).all()
    half_HWC = crops.crop_image(image_CHW, (0.0, 25.0, 100.0, 75.0))
    assert (half_HWC[:, :100] == 0).all()
    assert (half_HWC[:, 124:] == 200).all()
    assert crops.crop_image(image_CHW, (199.7, 99.8, 200.0, 100.0)).shape == (224, 224, 3)


@pytest.mark.parametrize("suffix", ["jpeg", "png", "bmp", "tiff", "webp"])
def test_files_of_every_format_decode_as_with_pillow(tmp_path: Path, suffix: str) -> None:
    pixels_HWC = np.random.RandomState(0).randint(0, 256, (8, 8, 3)).astype(np.uint8)
    image = Image.fromarray(pixels_HWC).resize((64, 48), Image.Resampling.BICUBIC)
    path = tmp_path / f"image.{suffix}"
    image.save(path)
    found_CHW = image_decoding.open_image(path)
    expected_HWC = np.asarray(image_folders.open_image(path)).astype(int)
    assert found_CHW.shape == (3, 48, 64)
    assert np.abs(found_CHW.permute(1, 2, 0).numpy() - expected_HWC).max() <= 2


def test_a_file_that_is_not_an_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"text")
    with pytest.raises(DatasetUnusable, match=r"broken\.jpg is not a readable image"):
        image_decoding.open_image(path)


def test_ranks_share_the_test_images(image_folder: Path) -> None:
    labels: list[int] = []
    for rank in range(4):
        source = stream(image_folder)
        for _, labels_N in source.load_evaluation_batches(
            EvaluationSplit.TEST, rank=rank, world_size=4
        ):
            labels += labels_N.tolist()
    assert sorted(labels) == [0, 0, 0, 1, 1, 1]


def test_chosen_training_images_are_evaluated_as_test_images_are(image_folder: Path) -> None:
    source = stream(image_folder, test_time_augmentation="none")
    batches = source.load_evaluation_batches(
        EvaluationSplit.TRAIN, rank=0, world_size=1, chosen=np.array([0, 7])
    )
    (((images_NCHW,), labels_N),) = batches
    assert labels_N.tolist() == [0, 1]
    for image_CHW, name in zip(images_NCHW, ("robin/0.jpg", "wren/2.jpg"), strict=True):
        opened_CHW = image_decoding.open_image(image_folder / "train" / name)
        (crop_HWC,) = crops.evaluation_crops(opened_CHW, TtaMode.NONE)
        assert torch.equal(image_CHW, source.normalizer(crop_HWC[None])[0])


def test_at_least_one_image_must_remain_for_training(image_folder: Path) -> None:
    with pytest.raises(DatasetUnusable, match="10 training images"):
        stream(image_folder, validation_images=10)


def test_normalization_is_measured_once_until_an_image_changes(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(image_folder, folder)
    opened: list[Path] = []
    open_image = image_decoding.open_image

    def open_and_count(path: Path) -> Tensor:
        opened.append(path)
        return open_image(path)

    monkeypatch.setattr(image_decoding, "open_image", open_and_count)
    first, again = stream(folder).normalizer, stream(folder).normalizer
    assert len(opened) == 10
    assert torch.equal(first.mean_HWC, again.mean_HWC)
    assert torch.equal(first.std_C, again.std_C)

    changed = folder / "train" / "wren" / "0.jpg"
    Image.new("RGB", (60, 40)).save(changed)
    assert not torch.equal(stream(folder).normalizer.mean_HWC, first.mean_HWC)
    channels = stream(folder, normalization="channel").normalizer
    assert (channels.std_C < 128).all()
    assert len(stream(folder, validation_images=2).normalizer.mean_HWC) == 224
    assert len(opened) == 10 + 10 + 10 + 8


@pytest.mark.slow
def test_a_run_on_an_image_folder_resumes_bit_for_bit(image_folder: Path, tmp_path: Path) -> None:
    spec = small_spec(
        {
            "name": "paper-imagenet",
            "iterations": 2,
            "batch_size": 4,
            "micro_batch_size": 2,
            "evaluate_every": 2,
            "checkpoint_every": 1,
            "test_time_augmentation": "ten_crop",
            "exports": [],
            "warmup_learning_rate": None,
            "warmup_until_error": None,
        },
        dataset=f"folder:{image_folder.name}",
        family="cifar",  # an eighth of the multiply-adds
    )
    _, uninterrupted = run(spec, tmp_path / "uninterrupted", data_dir=image_folder.parent)
    _, resumed = run(
        spec, tmp_path / "resumed", data_dir=image_folder.parent, resume=uninterrupted.files[1]
    )
    assert digests(resumed.files[2]) == digests(uninterrupted.files[2])
