"""Image folders: listing, decoding, and a cache of decoded images beside them.

NAME/                                laid out as service.catalog.image_folder_layout describes
.cache/NAME-<kind>-<fingerprint>/    computed from it, as .npy: decoded images, or a mean image
"""

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from service.catalog import image_files, image_folder_layout
from service.catalog.datasets import MAX_DECODED_BYTES, ChecksumScope
from service.catalog.image_folder_layout import ImageFile, LayoutError
from service.states import LogLevel
from service.text import count_of
from workers.training.data import checksum
from workers.training.errors import DatasetMissing, DatasetUnusable
from workers.training.observers import DataChecksum, LogFunction, ignore_log


@dataclass(frozen=True)
class DecodedFolder:
    """Images uint8 (N, size, size, 3); labels int64, indices into `classes`."""

    classes: list[str]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    checksum: DataChecksum
    train_names: list[str]
    test_names: list[str]


@dataclass(frozen=True)
class SplitListing:
    """The image files of a split, in a fixed order."""

    paths: list[Path]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, index: np.ndarray) -> "SplitListing":
        return SplitListing([self.paths[i] for i in index], self.labels[index])


@dataclass(frozen=True)
class FolderListing:
    """The files of an image folder; labels are indices into `classes`."""

    classes: list[str]
    train: SplitListing
    test: SplitListing


def list_images(folder: Path) -> FolderListing:
    """DatasetMissing if it is no image folder, DatasetUnusable if its layout is not clear."""
    try:
        if not image_folder_layout.is_image_folder(folder):
            raise DatasetMissing(
                f"{folder} is not an image folder: it needs train/<class>/ with images, and "
                "test/<class>/ (or val, valid or validation), or class folders alone"
            )
        found = image_folder_layout.read_image_folder(folder)
    except LayoutError as error:
        raise DatasetUnusable(f"{folder} is not an image folder: {error}") from error
    return FolderListing(found.classes, _list_split(found.train), _list_split(found.test))


def read_folder(folder: Path, *, size: int, log: LogFunction = ignore_log) -> DecodedFolder:
    """Images as squares of `size` pixels: shorter side resized, center cropped.

    DatasetMissing if the layout is wrong, DatasetUnusable if a file is not an image or the set
    is too large. Processes that read at the same time decode once.
    """
    listing = list_images(folder)
    train, test = listing.train, listing.test
    _check_memory(folder, len(train) + len(test), size)

    def decode() -> dict[str, np.ndarray]:
        images = {"train": _decode_split(train, size), "test": _decode_split(test, size)}
        splits = {
            "train": (images["train"], train.labels),
            "test": (images["test"], test.labels),
        }
        return images | {"sha256": checksum.hash_images(splits)}

    found = load_cached(folder, f"{size}-upright-hashed", train.paths + test.paths, decode, log)
    return DecodedFolder(
        listing.classes,
        found["train"],
        train.labels,
        found["test"],
        test.labels,
        checksum.make_checksum(found["sha256"]),
        name_images(train, folder),
        name_images(test, folder),
    )


def name_images(listing: SplitListing, folder: Path) -> list[str]:
    """Paths of the images inside of their folder."""
    return [path.relative_to(folder).as_posix() for path in listing.paths]


def hash_file_list(listing: FolderListing) -> DataChecksum:
    """Over a line for each file: train/CLASS/NAME, or test/CLASS/NAME and the size in bytes."""
    digest = hashlib.sha256()
    for split, files in (("train", listing.train), ("test", listing.test)):
        for path, label in zip(files.paths, files.labels, strict=True):
            size = f" {path.stat().st_size}" if split == "test" else ""
            digest.update(f"{split}/{listing.classes[label]}/{path.name}{size}\n".encode())
    return DataChecksum(digest.hexdigest(), ChecksumScope.FILE_LIST)


def load_cached(
    folder: Path,
    kind: str,
    files: list[Path],
    compute: Callable[[], dict[str, np.ndarray]],
    log: LogFunction = ignore_log,
) -> dict[str, np.ndarray]:
    """The result of `compute`, from the cache unless one of the listed files has changed.

    Processes that ask at the same time compute once. Without a writable file system that has room
    and locks, each computes and logs a warning.
    """
    name = f"{folder.name}-{kind}-{_fingerprint(folder, files)}"
    cache = folder.parent / ".cache" / name
    with ExitStack() as stack:
        try:
            stack.enter_context(_lock(cache))
            if cache.is_dir():
                return _map_arrays(cache)
        except OSError as error:
            _warn_without_cache(error, log)
            return compute()
        arrays = compute()
        try:
            _write_cache(cache, arrays)
            _delete_outdated(cache)
            return _map_arrays(cache)
        except OSError as error:
            _warn_without_cache(error, log)
            return arrays


def _map_arrays(cache: Path) -> dict[str, np.ndarray]:
    """Copy-on-write maps: processes on one machine share the pages."""
    return {path.stem: np.load(path, mmap_mode="c") for path in cache.glob("*.npy")}


def _warn_without_cache(error: OSError, log: LogFunction) -> None:
    log(LogLevel.WARNING, f"images are decoded without a cache: {error}")


def _list_split(files: list[ImageFile]) -> SplitListing:
    labels = np.array([file.label for file in files], dtype=np.int64)
    return SplitListing([file.path for file in files], labels)


def _check_memory(folder: Path, images: int, size: int) -> None:
    decoded_bytes = images * size * size * 3
    if decoded_bytes > MAX_DECODED_BYTES:
        raise DatasetUnusable(
            f"{folder} has {count_of(images, 'image')}; at {size}x{size} they take "
            f"{decoded_bytes / 2**30:.1f} GiB of memory, and at most "
            f"{MAX_DECODED_BYTES / 2**30:.1f} GiB are allowed"
        )


def _fingerprint(folder: Path, files: list[Path]) -> str:
    """Changes if a file is added, removed, renamed or written."""
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        line = f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\n"
        digest.update(line.encode())
    return digest.hexdigest()[:16]


@contextmanager
def _lock(cache: Path) -> Iterator[None]:
    """One process at a time; the system releases the lock when its process ends."""
    cache.parent.mkdir(exist_ok=True)
    with cache.with_name(f"{cache.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write_cache(cache: Path, arrays: dict[str, np.ndarray]) -> None:
    """The directory gets its name once it is complete. The caller has the lock."""
    partial = cache.with_name(f"{cache.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir()
    try:
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array)
        partial.chmod(0o755)
        partial.replace(cache)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _delete_outdated(cache: Path) -> None:
    """Caches of the same kind from before a change; processes that map them keep the pages."""
    kind = cache.name.rpartition("-")[0]
    for entry in cache.parent.iterdir():
        if entry.is_dir() and entry != cache and entry.name.rpartition("-")[0] == kind:
            shutil.rmtree(entry, ignore_errors=True)
            entry.with_name(f"{entry.name}.lock").unlink(missing_ok=True)


def _decode_split(listing: SplitListing, size: int) -> np.ndarray:
    images = np.empty((len(listing), size, size, 3), dtype=np.uint8)
    for image, path in zip(images, listing.paths, strict=True):
        image[:] = _decode_square(path, size)
    return images


def open_image(path: Path) -> Image.Image:
    """RGB, upright by its EXIF orientation.

    DatasetUnusable names a file that is not an image, or whose numbers have no defined range.
    """
    try:
        with Image.open(path) as file:
            return image_files.decode_upright(file)
    except image_files.UndefinedMode as error:
        raise DatasetUnusable(f"{path} {error}") from error
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetUnusable(f"{path} is not a readable image: {error}") from error


def _decode_square(path: Path, size: int) -> np.ndarray:
    image = open_image(path)
    width, height = image.size
    if (width, height) != (size, size):
        scale = size / min(width, height)
        width, height = max(size, round(width * scale)), max(size, round(height * scale))
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image)
