import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
import torchvision

from service.catalog import datasets as catalog_datasets
from service.catalog.architectures import Stem
from service.errors import NotFound
from workers.training.data import checksum
from workers.training.data import datasets as data_datasets
from workers.training.data.datasets import Images
from workers.training.errors import DatasetMissing

NOWHERE = Path("nowhere")


def read(name: str, data_dir: Path = NOWHERE) -> Images:
    return data_datasets.read_images(name, data_dir, stem=Stem.CIFAR)


@pytest.mark.parametrize("name", ["digits", "fake"])
def test_bundled_images_match_the_catalog(name: str) -> None:
    dataset = catalog_datasets.DATASETS[name]
    images = read(name)
    for split, count in (
        (images.train, dataset.train_images),
        (images.test, dataset.test_images),
    ):
        assert split.images_NHWC.shape == (count, dataset.size, dataset.size, 3)
        assert split.images_NHWC.dtype == torch.uint8
        assert set(split.labels_N.tolist()) == set(range(10))
    assert (images.classes, images.flip, images.padding) == (10, dataset.flip, dataset.padding)


def test_every_class_of_digits_has_its_share_of_the_test_set() -> None:
    images = read("digits")
    test_N = torch.bincount(images.test.labels_N)
    all_N = test_N + torch.bincount(images.train.labels_N)
    assert ((test_N / all_N - 360 / 1797).abs() < 0.01).all()


def test_the_split_of_digits_never_changes() -> None:
    images = read("digits")
    sha256 = hashlib.sha256(images.test.images_NHWC.numpy().tobytes())
    sha256.update(images.test.labels_N.numpy().tobytes())
    assert sha256.hexdigest()[:16] == "45c3f627d3871b21"


def test_no_digit_is_in_both_splits() -> None:
    images = read("digits")
    train, test = (
        {image.numpy().tobytes() for image in split.images_NHWC}
        for split in (images.train, images.test)
    )
    assert not train & test


def test_digits_use_the_full_range_of_a_byte() -> None:
    images_NHWC = read("digits").train.images_NHWC
    assert (int(images_NHWC.min()), int(images_NHWC.max())) == (0, 255)


def test_fake_images_are_the_same_every_time() -> None:
    first, second = read("fake"), read("fake")
    assert torch.equal(first.train.images_NHWC, second.train.images_NHWC)
    assert not torch.equal(first.train.images_NHWC[:128], first.test.images_NHWC)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion-mnist", "svhn", "stl10"])
def test_a_missing_data_set_names_the_command_that_fetches_it(name: str, tmp_path: Path) -> None:
    assert not data_datasets.is_available(name, tmp_path)
    with pytest.raises(DatasetMissing) as raised:
        read(name, tmp_path)
    assert f"resnetd-worker fetch {name} --data-dir {tmp_path}" in str(raised.value)


def test_an_unknown_data_set_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="mnist-c"):
        data_datasets.is_available("mnist-c", tmp_path)


def test_bundled_images_are_not_fetched(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="digits is not downloaded"):
        data_datasets.fetch_dataset("digits", tmp_path, lambda *_: None)


@pytest.fixture
def small_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Seven images in CIFAR-10's archive format, at the address that torchvision downloads."""
    members: dict[str, bytes] = {}
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        count = 2 if name == "test_batch" else 1
        members[name] = pickle.dumps(
            {"data": np.full((count, 3072), 7, dtype=np.uint8), "labels": list(range(count))}
        )
    members["batches.meta"] = pickle.dumps({"label_names": ["a", "b"]})
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    published = tmp_path / "published" / "cifar-10-python.tar.gz"
    published.parent.mkdir()
    published.write_bytes(packed.getvalue())

    cifar10 = torchvision.datasets.CIFAR10
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in members.items()}
    batches = [[name, md5[name]] for name in members if name.startswith("data")]
    monkeypatch.setattr(cifar10, "url", published.as_uri())
    monkeypatch.setattr(cifar10, "tgz_md5", hashlib.md5(packed.getvalue()).hexdigest())
    monkeypatch.setattr(cifar10, "train_list", batches)
    monkeypatch.setattr(cifar10, "test_list", [["test_batch", md5["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]}
    monkeypatch.setattr(cifar10, "meta", meta)
    return published.as_uri()


@pytest.mark.usefixtures("small_cifar")
def test_a_fetched_data_set_can_be_read(tmp_path: Path) -> None:
    reported: list[tuple[str, int, int | None]] = []
    data_datasets.fetch_dataset("cifar10", tmp_path, lambda *progress: reported.append(progress))
    name, received, total = reported[-1]
    assert name == "cifar-10-python.tar.gz"
    assert received == total

    assert data_datasets.is_available("cifar10", tmp_path)
    images = read("cifar10", tmp_path)
    assert images.train.images_NHWC.shape == (5, 32, 32, 3)
    assert images.test.labels_N.tolist() == [0, 1]


@pytest.mark.usefixtures("small_cifar")
def test_an_available_data_set_is_not_fetched_again(tmp_path: Path) -> None:
    data_datasets.fetch_dataset("cifar10", tmp_path, lambda *_: None)
    reported: list[str] = []
    data_datasets.fetch_dataset("cifar10", tmp_path, lambda name, *_: reported.append(name))
    assert reported == []


def test_a_download_with_a_wrong_checksum_leaves_nothing(
    small_cifar: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", "0" * 32)
    with pytest.raises(RuntimeError, match=small_cifar):
        data_datasets.fetch_dataset("cifar10", tmp_path, lambda *_: None)
    assert list((tmp_path / "cifar10").iterdir()) == []


def test_gray_images_become_three_equal_channels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = tmp_path / "published"
    published.mkdir()
    resources = []
    for name, count in (("train", 3), ("t10k", 2)):
        images = bytes(range(count)) * 28 * 28
        for kind, content in (
            ("images-idx3", struct.pack(">IIII", 0x803, count, 28, 28) + images),
            ("labels-idx1", struct.pack(">II", 0x801, count) + bytes(range(count))),
        ):
            packed = gzip.compress(content)
            (published / f"{name}-{kind}-ubyte.gz").write_bytes(packed)
            resources.append((f"{name}-{kind}-ubyte.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", resources)
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [published.as_uri() + "/"])
    data_datasets.fetch_dataset("fashion-mnist", tmp_path, lambda *_: None)
    train = read("fashion-mnist", tmp_path).train
    assert train.images_NHWC.shape == (3, 28, 28, 3)
    assert (train.images_NHWC[..., 0] == train.images_NHWC[..., 2]).all()
    assert train.labels_N.tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["svhn", "stl10"])
def test_images_published_channels_first_become_channels_last(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images_NCHW = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    labels_N = np.array([3, 9])

    class Published:
        def __init__(self, _path: Path, split: str) -> None:
            del split
            self.data, self.labels = images_NCHW, labels_N

    monkeypatch.setattr(torchvision.datasets, name.upper(), Published)
    for file in data_datasets._FILES[name]:
        path = tmp_path / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    train = read(name, tmp_path).train
    assert train.images_NHWC[1, 2, 3].tolist() == images_NCHW[1, :, 2, 3].tolist()
    assert train.labels_N.tolist() == [3, 9]


def test_a_published_data_set_is_parsed_once_per_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = data_datasets.read_images("digits", tmp_path, stem=Stem.CIFAR)

    def fail(_path: Path) -> NoReturn:
        raise AssertionError("parsed again")

    monkeypatch.setitem(data_datasets._READERS, "digits", fail)
    second = data_datasets.read_images("digits", tmp_path, stem=Stem.CIFAR)
    assert torch.equal(first.train.images_NHWC, second.train.images_NHWC)
    assert torch.equal(first.test.labels_N, second.test.labels_N)


def test_equal_images_have_one_checksum_and_any_other_byte_or_label_another() -> None:
    first, second = read("digits"), read("digits")
    assert first.checksum == second.checksum != read("fake").checksum
    images = first.train.images_NHWC.numpy().copy(), first.train.labels_N.numpy().copy()
    before = checksum.hash_images({"train": images}).tobytes()
    for array in images:
        array.flat[-1] += 1
        after = checksum.hash_images({"train": images}).tobytes()
        assert after != before
        before = after
