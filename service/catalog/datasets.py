"""The data sets known by name, as facts; reading the images is workers.training.data's part."""

from dataclasses import dataclass
from enum import StrEnum

FOLDER_PREFIX = "folder:"


class DatasetOrigin(StrEnum):
    BUNDLED = "bundled"  # inside an installed package, or made up on the spot
    DOWNLOAD = "download"  # a local copy under the data path, or fetched there
    FOLDER = "folder"  # class folders under the data path


@dataclass(frozen=True)
class Dataset:
    """What the spec and the reader must agree on.

    `size` is the images' own height and width in pixels, None where the folder decides.
    `flip`: whether a mirrored image is still of its class.
    """

    name: str
    title: str
    origin: DatasetOrigin
    size: int | None = None
    classes: int | None = None
    train_images: int | None = None
    test_images: int | None = None
    flip: bool = True
    default_recipe: str = "paper-cifar"

    @property
    def padding(self) -> int:
        """Zeros on each side before the random crop; of a folder's images, at 32 pixels.

        The paper pads 32x32 images by 4 (section 4.2); others get the same share.
        """
        return (self.size or 32) // 8


# Name, title; height and width, classes, images to train and to test on, whether mirrored.
_DOWNLOADS = (
    ("fashion-mnist", "Fashion-MNIST, grey (Xiao et al. 2017)", 28, 10, 60_000, 10_000, True),
    ("cifar10", "CIFAR-10, colour (Krizhevsky 2009)", 32, 10, 50_000, 10_000, True),
    ("cifar100", "CIFAR-100, colour (Krizhevsky 2009)", 32, 100, 50_000, 10_000, True),
    ("svhn", "SVHN, house numbers, colour (Netzer et al. 2011)", 32, 10, 73_257, 26_032, False),
    ("stl10", "STL-10, colour, those with labels (Coates et al. 2011)", 96, 10, 5_000, 8_000, True),
)

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "digits",
            "Optical digits, grey scans (UCI; carried by scikit-learn)",
            DatasetOrigin.BUNDLED,
            size=8,
            classes=10,
            train_images=1437,
            test_images=360,
            flip=False,
            default_recipe="quick",
        ),
        *(
            Dataset(name, title, DatasetOrigin.DOWNLOAD, size, classes, train, test, flip)
            for name, title, size, classes, train, test, flip in _DOWNLOADS
        ),
        Dataset(
            "imagenet",
            "ImageNet 2012, train/<class>/ and val/<class>/ (Russakovsky et al. 2014)",
            DatasetOrigin.FOLDER,
            classes=1_000,
            train_images=1_281_167,
            test_images=50_000,
            default_recipe="paper-imagenet",
        ),
        Dataset(
            "fake",
            "Made-up 32x32 images, for tests",
            DatasetOrigin.BUNDLED,
            size=32,
            classes=10,
            train_images=512,
            test_images=128,
            default_recipe="quick",
        ),
    )
}


def find_dataset(name: str) -> Dataset | None:
    """The data set of that name; `folder:NAME` stands for class folders under the data path.

    None where nothing can have that name. Whether its images are there is another question.
    """
    if not name.startswith(FOLDER_PREFIX):
        return DATASETS.get(name)
    folder = name.removeprefix(FOLDER_PREFIX)
    if not _is_plain_name(folder):
        return None
    return Dataset(name, f"Image folder {folder}", DatasetOrigin.FOLDER)


def _is_plain_name(folder: str) -> bool:
    """One path component: a data set must not reach out of the data path."""
    return (
        0 < len(folder) <= 100  # noqa: PLR2004 - far below every file system's limit
        and not folder.startswith(".")
        and all(letter.isalnum() or letter in "-_." for letter in folder)
    )
