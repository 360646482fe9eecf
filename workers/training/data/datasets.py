"""The images of a data set, whole in memory: bytes as they were scanned or photographed.

Grey images are repeated on three channels, so that the network is the paper's to the last weight.

Shapes: N images, H height, W width, C channels.
"""

import tempfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from service.catalog import datasets, image_folder_layout
from service.catalog.architectures import Family
from service.catalog.datasets import Dataset, DatasetOrigin
from service.errors import NotFound
from workers.training.data import image_folders
from workers.training.errors import DatasetMissing

_DIGITS_FILE = "sklearn/datasets/data/digits.csv.gz"

FetchProgress = Callable[[str, int, int | None], None]
"""Told the file's name, the bytes that are there and the bytes in all (None: not announced)."""


@dataclass(frozen=True)
class Split:
    """`images_NHWC` uint8 with three channels, `labels_N` int64 from 0."""

    images_NHWC: Tensor
    labels_N: Tensor

    def __len__(self) -> int:
        return len(self.labels_N)

    def only(self, index_N: Tensor) -> "Split":
        return Split(self.images_NHWC[index_N], self.labels_N[index_N])

    def to(self, device: torch.device) -> "Split":
        return Split(self.images_NHWC.to(device), self.labels_N.to(device))


@dataclass(frozen=True)
class Images:
    """A data set in memory. `padding`: zeros on each side before the random crop.

    `validation` None: no training images were held out.
    """

    train: Split
    test: Split
    classes: int
    flip: bool
    padding: int
    validation: Split | None = None


def read_images(name: str, data_path: Path, *, family: Family) -> Images:
    """The data set's images. DatasetMissing says how to fetch it; DatasetUnusable what is wrong."""
    dataset = _find_dataset(name)
    if dataset.origin is DatasetOrigin.FOLDER:
        return _read_folder(dataset, data_path, family)
    if not is_available(name, data_path):
        raise _missing(name, data_path)
    train, test = _read_once(name, data_path / name)
    assert dataset.classes is not None
    return Images(train, test, dataset.classes, flip=dataset.flip, padding=dataset.padding)


@lru_cache(maxsize=1)
def _read_once(name: str, path: Path) -> tuple[Split, Split]:
    """Published data sets do not change; nobody writes to the tensors."""
    return _READERS[name](path)


def is_available(name: str, data_path: Path) -> bool:
    """Whether the files seem to be there; a look at names only."""
    dataset = _find_dataset(name)
    if dataset.origin is DatasetOrigin.FOLDER:
        return image_folder_layout.is_image_folder(image_folder_path(name, data_path))
    return all((data_path / name / file).is_file() for file in _FILES.get(name, ()))


def fetch_dataset(name: str, data_path: Path, on_progress: FetchProgress) -> None:
    """Downloads the data set to `data_path/name`; what is there already and whole is kept.

    OSError where the network fails, RuntimeError where the bytes are not those that were
    published. ValueError for a data set that is not downloaded.
    """
    if _find_dataset(name).origin is not DatasetOrigin.DOWNLOAD:
        raise ValueError(f"{name} is not downloaded: it is bundled, or a folder of yours")
    # torchvision costs a second, and a fetch alone needs it.
    from torchvision import datasets as published  # noqa: PLC0415

    target = data_path / name
    downloads = target
    unpack: list[Callable[[], object]]
    if name == "fashion-mnist":
        kind = published.FashionMNIST
        archives = [(kind.mirrors[0] + file, md5) for file, md5 in kind.resources]
        downloads = target / "FashionMNIST" / "raw"
        unpack = [partial(kind, target, download=True)]
    elif name == "svhn":
        parts = [published.SVHN.split_list[split] for split in ("train", "test")]
        archives = [(url, md5) for url, _, md5 in parts]
        unpack = []
    else:
        kinds = {
            "cifar10": published.CIFAR10,
            "cifar100": published.CIFAR100,
            "stl10": published.STL10,
        }
        archives = [(kinds[name].url, kinds[name].tgz_md5)]
        unpack = [partial(kinds[name], target, download=True)]
    if not is_available(name, data_path):
        for url, md5 in archives:
            _download(url, md5, downloads, on_progress)
    # The archives lie where torchvision would have put them: it checks and unpacks them.
    for each in unpack:
        each()


def _find_dataset(name: str) -> Dataset:
    dataset = datasets.find_dataset(name)
    if dataset is None:
        raise NotFound(f"no data set {name!r}; there are {', '.join(sorted(datasets.DATASETS))}")
    return dataset


def _missing(name: str, data_path: Path) -> DatasetMissing:
    return DatasetMissing(
        f"the data set {name} is not under {data_path / name}; fetch it with: "
        f"resnetd-worker fetch {name} --data-path {data_path}"
    )


def image_folder_path(name: str, data_path: Path) -> Path:
    return data_path / name.removeprefix(datasets.FOLDER_PREFIX)


def _read_folder(dataset: Dataset, data_path: Path, family: Family) -> Images:
    size = 32 if family is Family.CIFAR else 224  # section 4.2; section 3.4
    decoded = image_folders.read_folder(image_folder_path(dataset.name, data_path), size=size)
    return Images(
        train=_split(decoded.train_images, decoded.train_labels),
        test=_split(decoded.test_images, decoded.test_labels),
        classes=len(decoded.classes),
        flip=dataset.flip,
        padding=dataset.padding * size // 32,  # the data set's is said for 32 pixels
    )


def _read_digits(_path: Path) -> tuple[Split, Split]:
    # The file alone: importing the library costs every first attempt of a runner a second.
    path = metadata.distribution("scikit-learn").locate_file(_DIGITS_FILE)
    rows_ND = np.loadtxt(str(path), delimiter=",")
    # Scans of 0..16 as bytes. The files are sorted by writer; the fixed shuffle mixes them.
    order = np.random.RandomState(0).permutation(len(rows_ND))
    grey = np.rint(rows_ND[order, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = rows_ND[order, -1].astype(np.int64)
    of_test = _every_fifth_of_each_class(labels, count=360)
    return _split(grey[~of_test], labels[~of_test]), _split(grey[of_test], labels[of_test])


def _every_fifth_of_each_class(labels: np.ndarray, *, count: int) -> np.ndarray:
    """Marks `count` rows, each class with its share of them."""
    by_class = np.argsort(labels, kind="stable")
    marked = np.zeros(len(labels), dtype=bool)
    marked[by_class[np.linspace(0, len(labels) - 1, count).round().astype(int)]] = True
    return marked


def _read_fashion_mnist(path: Path) -> tuple[Split, Split]:
    from torchvision.datasets import FashionMNIST  # noqa: PLC0415 - seconds, for some data sets

    train, test = (FashionMNIST(path, train=is_train) for is_train in (True, False))
    return _split(train.data, train.targets), _split(test.data, test.targets)


def _read_cifar10(path: Path) -> tuple[Split, Split]:
    from torchvision.datasets import CIFAR10  # noqa: PLC0415 - seconds, for some data sets

    train, test = (CIFAR10(path, train=is_train) for is_train in (True, False))
    return _split(train.data, train.targets), _split(test.data, test.targets)


def _read_cifar100(path: Path) -> tuple[Split, Split]:
    from torchvision.datasets import CIFAR100  # noqa: PLC0415 - seconds, for some data sets

    train, test = (CIFAR100(path, train=is_train) for is_train in (True, False))
    return _split(train.data, train.targets), _split(test.data, test.targets)


def _read_svhn(path: Path) -> tuple[Split, Split]:
    from torchvision.datasets import SVHN  # noqa: PLC0415 - seconds, for some data sets

    train, test = (SVHN(path, split=split) for split in ("train", "test"))
    return _split(_nhwc(train.data), train.labels), _split(_nhwc(test.data), test.labels)


def _read_stl10(path: Path) -> tuple[Split, Split]:
    from torchvision.datasets import STL10  # noqa: PLC0415 - seconds, for some data sets

    train, test = (STL10(path, split=split) for split in ("train", "test"))
    return _split(_nhwc(train.data), train.labels), _split(_nhwc(test.data), test.labels)


def _nhwc(images_NCHW: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images_NCHW.transpose(0, 2, 3, 1))


def _make_fakes(_path: Path) -> tuple[Split, Split]:
    """A colour pattern for each class under heavy noise: learnable, but not at first sight."""
    generator = np.random.RandomState(0)
    coarse = generator.randint(0, 256, size=(10, 8, 8, 3))
    patterns = coarse.repeat(4, axis=1).repeat(4, axis=2)

    def make(count: int) -> Split:
        labels = np.arange(count) % len(patterns)
        noise = generator.normal(scale=80, size=(count, *patterns.shape[1:]))
        images = (patterns[labels] + noise).clip(0, 255).astype(np.uint8)
        return _split(images, labels)

    return make(512), make(128)


_READERS: dict[str, Callable[[Path], tuple[Split, Split]]] = {
    "digits": _read_digits,
    "fashion-mnist": _read_fashion_mnist,
    "cifar10": _read_cifar10,
    "cifar100": _read_cifar100,
    "svhn": _read_svhn,
    "stl10": _read_stl10,
    "fake": _make_fakes,
}

_FILES = {
    "fashion-mnist": tuple(
        f"FashionMNIST/raw/{part}"
        for part in (
            "train-images-idx3-ubyte",
            "train-labels-idx1-ubyte",
            "t10k-images-idx3-ubyte",
            "t10k-labels-idx1-ubyte",
        )
    ),
    "cifar10": tuple(
        f"cifar-10-batches-py/{part}"
        for part in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
    ),
    "cifar100": ("cifar-100-python/train", "cifar-100-python/test"),
    "svhn": ("train_32x32.mat", "test_32x32.mat"),
    "stl10": tuple(
        f"stl10_binary/{split}_{kind}.bin" for split in ("train", "test") for kind in ("X", "y")
    ),
}


def _split(images: np.ndarray | Tensor, labels: np.ndarray | Tensor | list[int]) -> Split:
    images_NHWC = torch.as_tensor(images)
    if images_NHWC.dim() == 3:  # noqa: PLR2004 - grey: N, H, W
        images_NHWC = images_NHWC[..., None].expand(-1, -1, -1, 3).contiguous()
    return Split(images_NHWC, torch.as_tensor(labels, dtype=torch.int64))


def _download(url: str, md5: str, folder: Path, on_progress: FetchProgress) -> None:
    """Leaves the whole file or nothing under the file's name."""
    from torchvision.datasets.utils import (  # noqa: PLC0415 - costs a second, and a fetch alone needs it
        check_integrity,
    )

    target = folder / url.rsplit("/", 1)[1]
    if check_integrity(target, md5):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as partial:
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 - our own URLs
                announced = answer.headers.get("Content-Length")
                total = None if announced is None else int(announced)
                while chunk := answer.read(1 << 18):
                    partial.write(chunk)
                    on_progress(target.name, partial.tell(), total)
            partial.close()
            if not check_integrity(partial.name, md5):
                raise RuntimeError(f"{url} did not have the MD5 {md5} that was published")
            Path(partial.name).replace(target)
        finally:
            Path(partial.name).unlink(missing_ok=True)
