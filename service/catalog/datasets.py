"""The catalog of datasets; workers.training.data reads their images."""

from dataclasses import dataclass
from enum import StrEnum

from service.catalog import class_names
from service.catalog.architectures import Stem

FOLDER_PREFIX = "folder:"
# Of published weights, in the data directory; no dataset has this name.
WEIGHTS_FOLDER = "weights"
# Height and width in pixels of the crops that ImageNet networks are trained on (section 3.4).
CROP_SIZE = 224
# Length of the shorter side that an image is resized to before its center is evaluated.
EVALUATION_SIDE = 256
# Images of a folder that are not cropped from their files stay in memory, decoded.
MAX_DECODED_BYTES = 8 * 2**30


class DatasetOrigin(StrEnum):
    BUNDLED = "bundled"  # part of an installed package, or generated
    DOWNLOAD = "download"  # fetched to the data directory
    FOLDER = "folder"  # an image folder in the data directory (image_folder_layout)


class ChecksumScope(StrEnum):
    """What the checksum of a dataset covers."""

    IMAGES = "images"  # the bytes and labels of all images in memory
    # Images that are read from their files during training would have to be read once more.
    FILE_LIST = "file-list"  # class and name of all files, and the size of the test files


@dataclass(frozen=True)
class Dataset:
    """Properties of a dataset that the service and the training code share.

    `size`: height and width of the images in pixels; None if they depend on the folder.
    `class_names`: in the order of their labels. `flip`: whether a horizontal flip keeps an image
    in its class. `default_recipe` of an image folder is that of the ImageNet networks.
    """

    name: str
    title: str
    origin: DatasetOrigin
    size: int | None = None
    classes: int | None = None
    class_names: tuple[str, ...] | None = None
    train_images: int | None = None
    test_images: int | None = None
    flip: bool = True
    default_recipe: str = "paper-cifar"

    @property
    def padding(self) -> int:
        """Zero padding of the random crop in pixels: an eighth of the size, as in section 4.2.

        For image folders it applies to images of 32 pixels.
        """
        return (self.size or 32) // 8

    def choose_recipe(self, stem: Stem) -> str:
        """The name of the recipe that a network with this stem is trained with by default."""
        if self.origin is DatasetOrigin.FOLDER and stem is Stem.CIFAR:
            return "paper-cifar"
        return self.default_recipe

    def image_size(self, stem: Stem) -> int:
        """Height and width in pixels of the images in memory (sections 4.2 and 3.4)."""
        return self.size or (32 if stem is Stem.CIFAR else CROP_SIZE)


# Name, title, size, class names, training images, test images, flip.
_DOWNLOADS = (
    (
        "fashion-mnist",
        "Fashion-MNIST, grayscale (Xiao et al. 2017)",
        28,
        class_names.FASHION_MNIST,
        60_000,
        10_000,
        True,
    ),
    ("cifar10", "CIFAR-10, color (Krizhevsky 2009)", 32, class_names.CIFAR10, 50_000, 10_000, True),
    (
        "cifar100",
        "CIFAR-100, color (Krizhevsky 2009)",
        32,
        class_names.CIFAR100,
        50_000,
        10_000,
        True,
    ),
    (
        "svhn",
        "SVHN, house numbers, color (Netzer et al. 2011)",
        32,
        class_names.DIGITS,
        73_257,
        26_032,
        False,
    ),
    (
        "stl10",
        "STL-10, color, labeled images (Coates et al. 2011)",
        96,
        class_names.STL10,
        5_000,
        8_000,
        True,
    ),
)

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "digits",
            "Optical digits, grayscale (UCI; part of scikit-learn)",
            DatasetOrigin.BUNDLED,
            size=8,
            classes=10,
            class_names=class_names.DIGITS,
            train_images=1437,
            test_images=360,
            flip=False,
            default_recipe="quick",
        ),
        *(
            Dataset(name, title, DatasetOrigin.DOWNLOAD, size, len(names), names, train, test, flip)
            for name, title, size, names, train, test, flip in _DOWNLOADS
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
            "Generated 32x32 images, for tests",
            DatasetOrigin.BUNDLED,
            size=32,
            classes=10,
            class_names=class_names.DIGITS,
            train_images=512,
            test_images=128,
            default_recipe="quick",
        ),
    )
}


def find_dataset(name: str) -> Dataset | None:
    """The dataset of this name, or None; `folder:NAME` is an image folder in the data directory.

    Its images need not exist.
    """
    if not name.startswith(FOLDER_PREFIX):
        return DATASETS.get(name)
    folder = name.removeprefix(FOLDER_PREFIX)
    if not _is_plain_name(folder):
        return None
    return Dataset(
        name, f"Image folder {folder}", DatasetOrigin.FOLDER, default_recipe="paper-imagenet"
    )


def _is_plain_name(folder: str) -> bool:
    """Whether it is one path component, which is free: a dataset is inside the data directory."""
    return (
        0 < len(folder) <= 100  # noqa: PLR2004 - a name is shown in tables
        and not folder.startswith(".")
        and folder != WEIGHTS_FOLDER
        and all(character.isalnum() or character in "-_." for character in folder)
        # File systems allow 255 bytes, and a cache adds to the name.
        and len(folder.encode()) <= 180  # noqa: PLR2004
    )
