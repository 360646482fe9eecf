"""Datasets in memory: reading, and downloading those that are published.

Gray images are repeated on three channels, so every network is the paper's to the last weight.

Shapes: N images, H height, W width, C channels, D pixels of an image.
"""

import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from service.catalog import datasets, image_folder_layout
from service.catalog.architectures import Stem
from service.catalog.datasets import Dataset, DatasetOrigin
from service.errors import NotFound
from workers.training.data import checksum, image_folders
from workers.training.errors import DatasetMissing
from workers.training.observers import DataChecksum, LogFunction, ignore_log

_DIGITS_FILE = "sklearn/datasets/data/digits.csv.gz"
_DOWNLOAD_CHUNK_BYTES = 1 << 18
_DOWNLOAD_TIMEOUT_SECONDS = 60

DownloadProgress = Callable[[str, int, int | None], None]
"""Called with the file's name, the bytes received, and its size in bytes (None: not announced)."""


@dataclass(frozen=True)
class Split:
    """`images_NHWC` uint8 with three channels, `labels_N` int64 from 0.

    `names`: of all images of an image folder, in their order; else None.
    """

    images_NHWC: Tensor
    labels_N: Tensor
    names: list[str] | None = None

    def __len__(self) -> int:
        return len(self.labels_N)

    def select(self, index_N: Tensor) -> "Split":
        return Split(self.images_NHWC[index_N], self.labels_N[index_N])

    def to(self, device: torch.device) -> "Split":
        return Split(self.images_NHWC.to(device), self.labels_N.to(device), self.names)


@dataclass(frozen=True)
class Images:
    """A dataset in memory.

    `class_names` in the order of their labels. `flip`: a mirrored image is of the same class.
    `padding`: zeros on each side before the random crop, in pixels. `validation` is None unless
    training images are held out.
    """

    train: Split
    test: Split
    class_names: list[str]
    flip: bool
    padding: int
    checksum: DataChecksum
    validation: Split | None = None

    @property
    def classes(self) -> int:
        return len(self.class_names)


def read_images(name: str, data_dir: Path, *, stem: Stem, log: LogFunction = ignore_log) -> Images:
    """The images of a dataset.

    DatasetMissing says how to fetch it, DatasetUnusable what is wrong with it.
    """
    dataset = _find_dataset(name)
    if dataset.origin is DatasetOrigin.FOLDER:
        return _read_folder(dataset, data_dir, stem, log)
    if not is_available(name, data_dir):
        raise DatasetMissing(
            f"dataset {name} not found at {data_dir / name}; fetch it with: "
            f"resnetd-worker fetch {name} --data-dir {data_dir}"
        )
    train, test, data_checksum = _read_published(name, data_dir / name)
    assert dataset.class_names is not None
    return Images(
        train,
        test,
        list(dataset.class_names),
        flip=dataset.flip,
        padding=dataset.padding,
        checksum=data_checksum,
    )


def _read_published(name: str, path: Path) -> tuple[Split, Split, DataChecksum]:
    """Maps the arrays of the cache: to parse the files of CIFAR-10 takes about a second."""

    def parse() -> dict[str, np.ndarray]:
        reader = _READERS.get(name, partial(_read_torchvision, name))
        train, test = reader(path)
        splits = {
            "train": (train.images_NHWC.numpy(), train.labels_N.numpy()),
            "test": (test.images_NHWC.numpy(), test.labels_N.numpy()),
        }
        return {
            "train_images": splits["train"][0],
            "train_labels": splits["train"][1],
            "test_images": splits["test"][0],
            "test_labels": splits["test"][1],
            "sha256": checksum.hash_images(splits),
        }

    files = [path / file for file in _FILES.get(name, ())]
    # The kind must change when the parsing changes: the bundled datasets have no files to compare.
    arrays = image_folders.load_cached(path, "hashed-arrays", files, parse)
    train, test = (
        _make_split(arrays[f"{split}_images"], arrays[f"{split}_labels"])
        for split in ("train", "test")
    )
    return train, test, checksum.make_checksum(arrays["sha256"])


def is_available(name: str, data_dir: Path) -> bool:
    """Whether the files exist; their content is not checked."""
    dataset = _find_dataset(name)
    if dataset.origin is DatasetOrigin.FOLDER:
        return image_folder_layout.is_image_folder(image_folder_path(name, data_dir))
    return all((data_dir / name / file).is_file() for file in _FILES.get(name, ()))


def fetch_dataset(name: str, data_dir: Path, on_progress: DownloadProgress) -> None:
    """Downloads to `data_dir/name`; complete files are kept.

    OSError if the network fails, RuntimeError if a file does not have its published checksum,
    ValueError if the dataset is not one that is downloaded.
    """
    if _find_dataset(name).origin is not DatasetOrigin.DOWNLOAD:
        raise ValueError(f"{name} is not downloaded: it is bundled or an image folder")
    from torchvision import datasets as published  # noqa: PLC0415 - a second, for fetching only

    target = data_dir / name
    downloads = target
    unpack: Callable[[], object] | None = None
    if name == "fashion-mnist":
        kind = published.FashionMNIST
        archives = [(kind.mirrors[0] + file, md5) for file, md5 in kind.resources]
        downloads = target / "FashionMNIST" / "raw"
        unpack = partial(kind, target, download=True)
    elif name == "svhn":
        splits = [published.SVHN.split_list[split] for split in ("train", "test")]
        archives = [(url, md5) for url, _, md5 in splits]
    else:
        kind = getattr(published, name.upper())
        archives = [(kind.url, kind.tgz_md5)]
        unpack = partial(kind, target, download=True)
    if not is_available(name, data_dir):
        for url, md5 in archives:
            _download(url, md5, downloads, on_progress)
    # torchvision finds the archives where it would have put them, verifies and unpacks them.
    if unpack is not None:
        unpack()


def _find_dataset(name: str) -> Dataset:
    dataset = datasets.find_dataset(name)
    if dataset is None:
        known = ", ".join(sorted(datasets.DATASETS))
        raise NotFound(f"no dataset {name!r}; known datasets: {known}")
    return dataset


def image_folder_path(name: str, data_dir: Path) -> Path:
    return data_dir / name.removeprefix(datasets.FOLDER_PREFIX)


def _read_folder(dataset: Dataset, data_dir: Path, stem: Stem, log: LogFunction) -> Images:
    size = dataset.image_size(stem)
    folder = image_folder_path(dataset.name, data_dir)
    decoded = image_folders.read_folder(folder, size=size, log=log)
    return Images(
        train=_make_split(decoded.train_images, decoded.train_labels, decoded.train_names),
        test=_make_split(decoded.test_images, decoded.test_labels, decoded.test_names),
        class_names=decoded.classes,
        flip=dataset.flip,
        padding=dataset.padding * size // 32,  # the catalog gives the padding of 32 pixels
        checksum=decoded.checksum,
    )


def _read_digits(_path: Path) -> tuple[Split, Split]:
    # The file alone: importing scikit-learn would cost the first attempt of a runner a second.
    path = metadata.distribution("scikit-learn").locate_file(_DIGITS_FILE)
    rows_ND = np.loadtxt(str(path), delimiter=",")
    # Rows are sorted by writer; a fixed shuffle mixes them. Values are 0 to 16.
    order = np.random.RandomState(0).permutation(len(rows_ND))
    gray = np.rint(rows_ND[order, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = rows_ND[order, -1].astype(np.int64)
    is_test = _select_stratified(labels, count=360)
    return _make_split(gray[~is_test], labels[~is_test]), _make_split(
        gray[is_test], labels[is_test]
    )


def _select_stratified(labels: np.ndarray, *, count: int) -> np.ndarray:
    """Marks `count` rows, with each class in its share."""
    by_class = np.argsort(labels, kind="stable")
    selected = np.zeros(len(labels), dtype=bool)
    selected[by_class[np.linspace(0, len(labels) - 1, count).round().astype(int)]] = True
    return selected


def _read_torchvision(name: str, path: Path) -> tuple[Split, Split]:
    from torchvision import datasets as published  # noqa: PLC0415 - seconds, not for all datasets

    if name in {"svhn", "stl10"}:
        kind = getattr(published, name.upper())
        splits = [kind(path, split=split) for split in ("train", "test")]
        train, test = (
            _make_split(np.ascontiguousarray(split.data.transpose(0, 2, 3, 1)), split.labels)
            for split in splits
        )
        return train, test
    kind = published.FashionMNIST if name == "fashion-mnist" else getattr(published, name.upper())
    train, test = (
        _make_split(split.data, split.targets)
        for split in (kind(path, train=True), kind(path, train=False))
    )
    return train, test


def _make_fake_images(_path: Path) -> tuple[Split, Split]:
    """A color pattern per class under heavy noise: learnable, but not in the first iterations."""
    generator = np.random.RandomState(0)
    coarse = generator.randint(0, 256, size=(10, 8, 8, 3))
    patterns = coarse.repeat(4, axis=1).repeat(4, axis=2)

    def make(count: int) -> Split:
        labels = np.arange(count) % len(patterns)
        noise = generator.normal(scale=80, size=(count, *patterns.shape[1:]))
        images = (patterns[labels] + noise).clip(0, 255).astype(np.uint8)
        return _make_split(images, labels)

    return make(512), make(128)


_READERS: dict[str, Callable[[Path], tuple[Split, Split]]] = {
    "digits": _read_digits,
    "fake": _make_fake_images,
}

_FILES = {
    "fashion-mnist": tuple(
        f"FashionMNIST/raw/{file}"
        for file in (
            "train-images-idx3-ubyte",
            "train-labels-idx1-ubyte",
            "t10k-images-idx3-ubyte",
            "t10k-labels-idx1-ubyte",
        )
    ),
    "cifar10": tuple(
        f"cifar-10-batches-py/{file}"
        for file in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
    ),
    "cifar100": ("cifar-100-python/train", "cifar-100-python/test"),
    "svhn": ("train_32x32.mat", "test_32x32.mat"),
    "stl10": tuple(
        f"stl10_binary/{split}_{kind}.bin" for split in ("train", "test") for kind in ("X", "y")
    ),
}


def _make_split(
    images: np.ndarray | Tensor,
    labels: np.ndarray | Tensor | list[int],
    names: list[str] | None = None,
) -> Split:
    images_NHWC = torch.as_tensor(images)
    if images_NHWC.dim() == 3:  # noqa: PLR2004 - gray: N, H, W
        images_NHWC = images_NHWC[..., None].expand(-1, -1, -1, 3).contiguous()
    return Split(images_NHWC, torch.as_tensor(labels, dtype=torch.int64), names)


def _download(url: str, md5: str, folder: Path, on_progress: DownloadProgress) -> None:
    """The complete, verified file appears under its name, or nothing does."""
    from torchvision.datasets.utils import check_integrity  # noqa: PLC0415 - as above

    target = folder / url.rsplit("/", 1)[1]
    if check_integrity(target, md5):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as partial_file:
        try:
            with urllib.request.urlopen(url, timeout=_DOWNLOAD_TIMEOUT_SECONDS) as response:  # noqa: S310 - published URLs
                announced = response.headers.get("Content-Length")
                size = None if announced is None else int(announced)
                while chunk := response.read(_DOWNLOAD_CHUNK_BYTES):
                    partial_file.write(chunk)
                    on_progress(target.name, partial_file.tell(), size)
            partial_file.close()
            if not check_integrity(partial_file.name, md5):
                raise RuntimeError(f"{url} does not have its published MD5 {md5}")
            Path(partial_file.name).replace(target)
        finally:
            Path(partial_file.name).unlink(missing_ok=True)
