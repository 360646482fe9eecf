"""Which datasets the data directory of this machine has, and the nearest to one that it lacks."""

import os
from pathlib import Path

from service.catalog import datasets, image_folder_layout
from service.catalog.datasets import FOLDER_PREFIX, Dataset, DatasetOrigin
from service.catalog.image_folder_layout import LayoutError
from service.text import format_nearest


def is_readable(data_dir: Path) -> bool:
    """Whether this process sees the data directory."""
    try:
        return data_dir.is_dir() and os.access(data_dir, os.R_OK | os.X_OK)
    except PermissionError:  # of a directory above it
        return False


def list_folders(data_dir: Path) -> list[Dataset]:
    """The image folders, sorted by name."""
    if not is_readable(data_dir):
        return []
    return [
        found
        for path in sorted(data_dir.iterdir())
        if path.name not in datasets.DATASETS
        and _is_image_folder(path)
        and (found := datasets.find_dataset(f"{FOLDER_PREFIX}{path.name}")) is not None
    ]


def is_available(dataset: Dataset, data_dir: Path) -> bool:
    """Whether its images are in the data directory, or need not be."""
    folder = data_dir / dataset.name.removeprefix(FOLDER_PREFIX)
    if dataset.origin is DatasetOrigin.FOLDER:
        return _is_image_folder(folder)
    return dataset.origin is DatasetOrigin.BUNDLED or folder.is_dir()


def is_uncertain(dataset: Dataset, data_dir: Path) -> bool:
    """Whether only the nodes that train know if they have it: there is no data directory here."""
    return dataset.origin is not DatasetOrigin.BUNDLED and not is_readable(data_dir)


def describe_missing(dataset: Dataset, data_dir: Path) -> str | None:
    """What is missing, and what to do; None where nothing is, or where it is uncertain."""
    if not is_readable(data_dir) or is_available(dataset, data_dir):
        return None
    if dataset.origin is DatasetOrigin.DOWNLOAD:
        return (
            f"{dataset.name} is not in the data directory; "
            f"fetch it with: resnetd-worker fetch {dataset.name}"
        )
    if not dataset.name.startswith(FOLDER_PREFIX):
        return (
            f"{dataset.name} has no images in the data directory; put them into "
            f"{dataset.name}/train/<class>/ and {dataset.name}/val/<class>/"
        )
    name = dataset.name.removeprefix(FOLDER_PREFIX)
    folders = [folder.name for folder in list_folders(data_dir)]
    nearest = format_nearest(name, datasets.DATASETS) or format_nearest(dataset.name, folders)
    return f"there is no image folder {name} in the data directory{nearest}"


def _is_image_folder(folder: Path) -> bool:
    try:
        return image_folder_layout.is_image_folder(folder)
    except (OSError, LayoutError):  # a folder that cannot be read must not hide the others
        return False
