"""Image folders: decoded once, then read from a cache beside them.

NAME/train/<class>/*.jpg         NAME/test or NAME/val likewise, with the same classes
.cache/NAME-<kind>-<fingerprint>/   what was computed from it, as .npy: images, or a mean
"""

import errno
import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from service.catalog import image_folder_layout
from workers.training.errors import DatasetMissing, DatasetUnusable

# All images lie in memory, padded copies included; a bigger set needs a reader that streams.
MAX_DECODED_BYTES = 8 * 2**30

# By what a camera notes of how it was held; Pillow's own way fails at other notes that are broken.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# A data path mounted for reading only is fine: then there is no cache.
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class DecodedFolder:
    """Images uint8 (N, size, size, 3), labels int64 that index `classes`."""

    classes: list[str]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


@dataclass(frozen=True)
class SplitListing:
    """The image files of a split, in the order in which they are decoded."""

    paths: list[Path]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def only(self, numbers: np.ndarray) -> "SplitListing":
        return SplitListing([self.paths[number] for number in numbers], self.labels[numbers])


@dataclass(frozen=True)
class FolderListing:
    """An image folder's files; labels index `classes`."""

    classes: list[str]
    train: SplitListing
    test: SplitListing


def list_images(folder: Path) -> FolderListing:
    """The folder's images. DatasetMissing where it is not laid out as above."""
    test_folder = image_folder_layout.find_test_folder(folder)
    if not (folder / "train").is_dir() or test_folder is None:
        raise DatasetMissing(
            f"no image folder at {folder}: it needs train/<class>/ and test/<class>/ "
            "(or val/<class>/) with images in them"
        )
    classes = _classes(folder / "train")
    return FolderListing(classes, _list(folder / "train", classes), _list(test_folder, classes))


def read_folder(folder: Path, *, size: int) -> DecodedFolder:
    """The folder's images as squares of `size` pixels: shorter side resized, centre cropped.

    DatasetMissing where it is not laid out as above, DatasetUnusable for a file that is no image
    or a set too big. Processes that read at once decode once.
    """
    listed = list_images(folder)
    train, test = listed.train, listed.test
    _refuse_too_many(folder, len(train.paths) + len(test.paths), size)

    def decode() -> dict[str, np.ndarray]:
        return {"train": _decode(train, size), "test": _decode(test, size)}

    images = load_cached(folder, f"{size}-upright", [train, test], decode)
    return DecodedFolder(listed.classes, images["train"], train.labels, images["test"], test.labels)


def load_cached(
    folder: Path,
    kind: str,
    listings: list[SplitListing],
    compute: Callable[[], dict[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """What `compute` makes of the listed files, from the cache unless one of them has changed.

    Processes that ask at once compute once. Where nothing can be written, each computes.
    """
    name = f"{folder.name}-{kind}-{_fingerprint(folder, *listings)}"
    cache = folder.parent / ".cache" / name
    try:
        with _locked(cache):
            if not cache.is_dir():
                _write_cache(cache, compute())
                _forget_older(cache)
            # Copy-on-write maps: the processes of one machine share the pages.
            return {path.stem: np.load(path, mmap_mode="c") for path in cache.glob("*.npy")}
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        return compute()


def _classes(folder: Path) -> list[str]:
    classes = image_folder_layout.list_classes(folder)
    if len(classes) < image_folder_layout.MIN_CLASSES:
        raise DatasetUnusable(f"{folder} holds {len(classes)} class folders, at least 2 are needed")
    return classes


def _list(folder: Path, classes: list[str]) -> SplitListing:
    unknown = sorted(set(image_folder_layout.list_classes(folder)) - set(classes))
    if unknown:
        raise DatasetUnusable(f"{folder / unknown[0]} is a class that train/ does not have")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            continue
        found = sorted(filter(image_folder_layout.is_image_file, (folder / name).iterdir()))
        paths += found
        labels += [label] * len(found)
    if not paths:
        suffixes = ", ".join(sorted(image_folder_layout.IMAGE_SUFFIXES))
        raise DatasetUnusable(f"{folder} holds no images ({suffixes})")
    return SplitListing(paths, np.array(labels, dtype=np.int64))


def _refuse_too_many(folder: Path, images: int, size: int) -> None:
    decoded = images * size * size * 3
    if decoded > MAX_DECODED_BYTES:
        raise DatasetUnusable(
            f"{folder} holds {images:,} images; at {size}x{size} they are "
            f"{decoded / 2**30:.1f} GiB in memory, at most {MAX_DECODED_BYTES / 2**30:.0f} GiB fit"
        )


def _fingerprint(folder: Path, *listings: SplitListing) -> str:
    """Changes whenever a file was added, removed, renamed or written."""
    digest = hashlib.sha256()
    for listing in listings:
        for path in listing.paths:
            status = path.stat()
            line = f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\n"
            digest.update(line.encode())
    return digest.hexdigest()[:16]


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """One process at a time; the lock goes with the process that held it."""
    cache.parent.mkdir(exist_ok=True)
    with cache.with_name(f"{cache.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write_cache(cache: Path, arrays: dict[str, np.ndarray]) -> None:
    """Under its name only once it is whole."""
    partial = Path(tempfile.mkdtemp(dir=cache.parent, prefix="partial-"))
    try:
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array)
        partial.chmod(0o755)
        partial.replace(cache)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _forget_older(cache: Path) -> None:
    """What was decoded before the folder changed; who has it mapped keeps it."""
    kind = cache.name.rpartition("-")[0]
    for entry in cache.parent.iterdir():
        if entry.is_dir() and entry != cache and entry.name.rpartition("-")[0] == kind:
            shutil.rmtree(entry, ignore_errors=True)
            entry.with_name(f"{entry.name}.lock").unlink(missing_ok=True)


def _decode(listing: SplitListing, size: int) -> np.ndarray:
    images = np.empty((len(listing.paths), size, size, 3), dtype=np.uint8)
    for image, path in zip(images, listing.paths, strict=True):
        image[:] = _decode_one(path, size)
    return images


def open_image(path: Path) -> Image.Image:
    """The whole image in colour, upright. DatasetUnusable names the file that is none."""
    try:
        with Image.open(path) as file:
            turn = _UPRIGHT.get(file.getexif().get(ExifTags.Base.Orientation, 1))
            colour = file.convert("RGB")
            return colour if turn is None else colour.transpose(turn)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetUnusable(f"{path} is not an image that can be read: {error}") from error


def _decode_one(path: Path, size: int) -> np.ndarray:
    colour = open_image(path)
    width, height = colour.size
    if (width, height) != (size, size):
        scale = size / min(width, height)
        width, height = max(size, round(width * scale)), max(size, round(height * scale))
        colour = colour.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - size) // 2, (height - size) // 2
        colour = colour.crop((left, top, left + size, top + size))
    return np.asarray(colour)
