import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.catalog.architectures import Stem
from service.states import Reason
from tests.workers.training.support import run, small_spec
from workers.training.data import datasets, image_folders
from workers.training.errors import DatasetMissing, DatasetUnusable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes by color, five images of different shapes in each, two of them for testing."""
    folder = tmp_path / "data" / "colors"
    for split, count in (("train", 3), ("test", 2)):
        for name, color in (("blue", (0, 0, 200)), ("red", (200, 0, 0))):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (40 + 7 * number, 50), color)
                image.save(folder / split / name / f"{number}.png")
    return folder


def caches(folder: Path) -> list[Path]:
    return sorted(entry for entry in (folder.parent / ".cache").iterdir() if entry.is_dir())


def test_images_become_squares_labeled_by_their_folder(folder: Path) -> None:
    decoded = image_folders.read_folder(folder, size=32)
    assert decoded.classes == ["blue", "red"]
    assert decoded.train_images.shape == (6, 32, 32, 3)
    assert decoded.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert decoded.test_labels.tolist() == [0, 0, 1, 1]
    read = datasets.read_images("folder:colors", folder.parent, stem=Stem.CIFAR)
    expected = [f"test/{name}/{number}.png" for name in ("blue", "red") for number in (0, 1)]
    assert read.test.names == expected
    assert (decoded.train_images[decoded.train_labels == 0] == (0, 0, 200)).all()
    assert (decoded.test_images[decoded.test_labels == 1] == (200, 0, 0)).all()


def test_the_center_is_kept(folder: Path) -> None:
    stripes = np.zeros((32, 96, 3), dtype=np.uint8)
    stripes[:, 32:64] = 255
    Image.fromarray(stripes).save(folder / "train" / "blue" / "0.png")
    assert (image_folders.read_folder(folder, size=32).train_images[0] == 255).all()


def test_a_folder_named_val_is_the_test_split(folder: Path) -> None:
    (folder / "test").rename(folder / "val")
    assert len(image_folders.read_folder(folder, size=32).test_images) == 4


def test_a_second_read_decodes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = image_folders.read_folder(folder, size=32)
    monkeypatch.setattr(image_folders, "_decode_split", None)
    second = image_folders.read_folder(folder, size=32)
    assert (second.train_images == first.train_images).all()
    assert (second.test_images == first.test_images).all()


def test_a_changed_folder_is_decoded_again_and_its_old_cache_deleted(folder: Path) -> None:
    image_folders.read_folder(folder, size=32)
    before = caches(folder)
    (folder / "train" / "red" / "2.png").unlink()
    assert len(image_folders.read_folder(folder, size=32).train_images) == 5
    assert len(caches(folder)) == 1
    assert caches(folder) != before


_KILLED_READ = """
import os, signal, sys
from pathlib import Path
import numpy as np
from workers.training.data import image_folders

np.save = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
image_folders.read_folder(Path(sys.argv[1]), size=32)
"""


def test_nothing_remains_of_a_cache_whose_process_was_killed(folder: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", _KILLED_READ, folder], check=False)
    assert ended.returncode == -signal.SIGKILL
    (partial,) = caches(folder)
    image_folders.read_folder(folder, size=32)
    assert len(caches(folder)) == 1
    assert not partial.exists()


def test_each_size_has_its_own_cache(folder: Path) -> None:
    image_folders.read_folder(folder, size=32)
    image_folders.read_folder(folder, size=64)
    assert len(caches(folder)) == 2


def test_a_broken_image_is_named_and_leaves_no_cache(folder: Path) -> None:
    broken = folder / "train" / "red" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(DatasetUnusable, match=r"red/1\.png") as raised:
        image_folders.read_folder(folder, size=32)
    assert not raised.value.reason.is_retryable
    assert caches(folder) == []


def test_a_text_file_is_rejected_by_name(folder: Path) -> None:
    (folder / "test" / "blue" / "notes.jpg").write_text("not an image")
    with pytest.raises(DatasetUnusable, match=r"blue/notes\.jpg"):
        image_folders.read_folder(folder, size=32)


def test_a_folder_that_does_not_fit_in_memory_is_rejected_with_its_size(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_folders, "MAX_DECODED_BYTES", 10_000)
    with pytest.raises(DatasetUnusable, match="10 images; at 32x32"):
        image_folders.read_folder(folder, size=32)


def test_a_test_class_without_training_images_is_rejected(folder: Path) -> None:
    (folder / "test" / "green").mkdir()
    with pytest.raises(DatasetUnusable, match="green' is a class that train/ does not have"):
        image_folders.read_folder(folder, size=32)


def test_a_single_class_is_rejected(folder: Path) -> None:
    for split in ("train", "test"):
        for image in (folder / split / "red").iterdir():
            image.unlink()
        (folder / split / "red").rmdir()
    with pytest.raises(DatasetUnusable, match="at least 2 class folders are needed"):
        image_folders.read_folder(folder, size=32)


def test_a_folder_without_a_test_split_holds_out_every_fifth_image(folder: Path) -> None:
    for name in ("blue", "red"):
        for path in (folder / "test" / name).iterdir():
            path.rename(folder / "train" / name / f"test{path.name}")
        (folder / "test" / name).rmdir()
    (folder / "test").rmdir()
    decoded = image_folders.read_folder(folder, size=32)
    assert (len(decoded.train_images), decoded.test_labels.tolist()) == (8, [0, 1])


def test_a_folder_without_a_train_split_is_missing(folder: Path) -> None:
    shutil.rmtree(folder / "train")
    assert not datasets.is_available("folder:colors", folder.parent)
    with pytest.raises(DatasetMissing, match="train/<class>/") as raised:
        image_folders.read_folder(folder, size=32)
    assert raised.value.reason is Reason.DATASET_MISSING


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ((fcntl, "flock"), errno.ENOLCK),
        ((fcntl, "flock"), errno.ENOSYS),
        ((np, "save"), errno.ENOSPC),
        ((np, "load"), errno.ENODEV),
        ((Path, "mkdir"), errno.EROFS),
    ],
)
def test_without_a_usable_file_system_images_are_decoded_without_a_cache(
    folder: Path, target: tuple[Any, str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(*target, fail)
    lines: list[str] = []
    decoded = image_folders.read_folder(
        folder, size=32, log=lambda level, message: lines.append(f"{level}: {message}")
    )
    assert len(decoded.train_images) == 6
    (line,) = lines
    assert line.startswith("warning: images are decoded without a cache: ")
    assert os.strerror(code) in line


@pytest.mark.parametrize(
    ("stem", "size", "padding"), [(Stem.CIFAR, 32, 4), (Stem.IMAGENET, 224, 28)]
)
def test_the_stem_determines_the_size(folder: Path, stem: Stem, size: int, padding: int) -> None:
    images = datasets.read_images("folder:colors", folder.parent, stem=stem)
    assert images.train.images_NHWC.shape == (6, size, size, 3)
    assert (images.classes, images.padding, images.flip) == (2, padding, True)


def test_a_network_learns_colors_from_a_folder(folder: Path, tmp_path: Path) -> None:
    recipe = {"iterations": 24, "batch_size": 6, "warmup_until_error": 100.0}
    spec = small_spec(recipe, dataset="folder:colors")
    outcome, _ = run(spec, tmp_path / "work", data_dir=folder.parent)
    assert outcome.test_error == 0
