"""The data sets known by name, as facts; reading the images is workers.training.data's part."""

from dataclasses import dataclass
from enum import StrEnum

FOLDER_PREFIX = "folder:"


class Origin(StrEnum):
    BUNDLED = "bundled"  # inside an installed package, or made up on the spot
    DOWNLOAD = "download"  # a local copy under the data path, or fetched there
    FOLDER = "folder"  # class folders under the data path


@dataclass(frozen=True)
class Dataset:
    """What the spec and the reader must agree on.

    `height` and `width` are the images' own size in pixels, None where the folder decides.
    `flip`: whether a mirrored image is still of its class. `padding`: zeros on each side before
    the random crop. The paper pads 32x32 images by 4 (section 4.2); others get the same share.
    """

    name: str
    title: str
    origin: Origin
    classes: int | None
    height: int | None
    width: int | None
    train_images: int | None
    test_images: int | None
    flip: bool
    padding: int
    default_recipe: str


DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            name="digits",
            title="Optical digits, 8x8 grey scans (UCI; carried by scikit-learn)",
            origin=Origin.BUNDLED,
            classes=10,
            height=8,
            width=8,
            train_images=1437,
            test_images=360,
            flip=False,
            padding=1,
            default_recipe="quick",
        ),
        Dataset(
            name="fashion-mnist",
            title="Fashion-MNIST, 28x28 grey (Xiao et al. 2017)",
            origin=Origin.DOWNLOAD,
            classes=10,
            height=28,
            width=28,
            train_images=60_000,
            test_images=10_000,
            flip=True,
            padding=3,
            default_recipe="paper-cifar",
        ),
        Dataset(
            name="cifar10",
            title="CIFAR-10, 32x32 colour (Krizhevsky 2009)",
            origin=Origin.DOWNLOAD,
            classes=10,
            height=32,
            width=32,
            train_images=50_000,
            test_images=10_000,
            flip=True,
            padding=4,
            default_recipe="paper-cifar",
        ),
        Dataset(
            name="cifar100",
            title="CIFAR-100, 32x32 colour (Krizhevsky 2009)",
            origin=Origin.DOWNLOAD,
            classes=100,
            height=32,
            width=32,
            train_images=50_000,
            test_images=10_000,
            flip=True,
            padding=4,
            default_recipe="paper-cifar",
        ),
        Dataset(
            name="svhn",
            title="Street View House Numbers, 32x32 colour (Netzer et al. 2011)",
            origin=Origin.DOWNLOAD,
            classes=10,
            height=32,
            width=32,
            train_images=73_257,
            test_images=26_032,
            flip=False,
            padding=4,
            default_recipe="paper-cifar",
        ),
        Dataset(
            name="stl10",
            title="STL-10, 96x96 colour, the labelled images (Coates et al. 2011)",
            origin=Origin.DOWNLOAD,
            classes=10,
            height=96,
            width=96,
            train_images=5_000,
            test_images=8_000,
            flip=True,
            padding=12,
            default_recipe="paper-cifar",
        ),
        Dataset(
            name="imagenet",
            title="ImageNet 2012, train/<class>/ and val/<class>/ (Russakovsky et al. 2014)",
            origin=Origin.FOLDER,
            classes=1_000,
            height=None,
            width=None,
            train_images=1_281_167,
            test_images=50_000,
            flip=True,
            padding=4,
            default_recipe="paper-imagenet",
        ),
        Dataset(
            name="fake",
            title="Made-up 32x32 images, for tests",
            origin=Origin.BUNDLED,
            classes=10,
            height=32,
            width=32,
            train_images=512,
            test_images=128,
            flip=True,
            padding=4,
            default_recipe="quick",
        ),
    )
}


def find(name: str) -> Dataset | None:
    """The data set of that name; `folder:NAME` stands for class folders under the data path.

    None where nothing can have that name. Whether its images are there is another question.
    """
    if not name.startswith(FOLDER_PREFIX):
        return DATASETS.get(name)
    folder = name.removeprefix(FOLDER_PREFIX)
    if not _is_plain_name(folder):
        return None
    return Dataset(
        name=name,
        title=f"Image folder {folder}",
        origin=Origin.FOLDER,
        classes=None,
        height=None,
        width=None,
        train_images=None,
        test_images=None,
        flip=True,
        padding=4,
        default_recipe="paper-cifar",
    )


def _is_plain_name(folder: str) -> bool:
    """One path component: a data set must not reach out of the data path."""
    return (
        0 < len(folder) <= 100  # noqa: PLR2004 - far below every file system's limit
        and not folder.startswith(".")
        and all(letter.isalnum() or letter in "-_." for letter in folder)
    )
