"""The layout of an image folder: train/<class>/*.jpg, and test/ or val/ with the same classes."""

from pathlib import Path, PurePath

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
TRAIN = "train"
# The first of these that exists holds the test images.
TEST_NAMES = ("test", "val")
MIN_CLASSES = 2


def is_image_file(path: PurePath) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def is_image_folder(folder: Path) -> bool:
    """Whether it has a train and a test folder; their contents are not checked."""
    return (folder / TRAIN).is_dir() and find_test_folder(folder) is not None


def find_test_folder(folder: Path) -> Path | None:
    candidates = (folder / name for name in TEST_NAMES)
    return next((candidate for candidate in candidates if candidate.is_dir()), None)


def list_classes(split: Path) -> list[str]:
    """The class folders of a train or test folder, sorted; a class's index is its label."""
    return sorted(entry.name for entry in split.iterdir() if entry.is_dir())
