"""Uploaded datasets: archives of class folders, checked file by file and unpacked.

NAME.tar, .tar.gz or .zip           train/<class>/*.jpg and test/<class>/*.jpg (or val/), or
                                    <class>/*.jpg only; a common top folder is stripped
DATA/NAME/{train,test}/<class>/     the unpacked dataset, known as folder:NAME
DATA/NAME/dataset.json              SHA-256 and counts

An archive is untrusted: paths, sizes and images are checked. An error names the file.
"""

import hashlib
import json
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from PIL import Image, UnidentifiedImageError

from service.catalog import datasets, image_folder_layout
from service.catalog.datasets import Dataset
from service.errors import Conflict, CorruptArtifact, InvalidInput
from service.text import count_of

MAX_FILES = 2_000_000
MAX_FILE_BYTES = 64 * 2**20
# Per image: a file of a few bytes can decode to gigabytes.
MAX_PIXELS = 64_000_000
# Without a test folder, every fifth image of each class becomes a test image.
_TEST_EVERY = 5
_CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True)
class Upload:
    """Contents of an uploaded archive; `sha256` and `size_bytes` are the archive's."""

    sha256: str
    size_bytes: int
    classes: int
    train_images: int
    test_images: int


async def receive_archive(
    body: AsyncIterator[bytes], target: Path, *, max_bytes: int
) -> tuple[str, int]:
    """Writes the body to a file and returns its SHA-256 and its size in bytes."""
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as file:
        async for chunk in body:
            size += len(chunk)
            if size > max_bytes:
                raise InvalidInput(
                    f"the archive exceeds the limit of {count_of(max_bytes, 'byte')}"
                )
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest(), size


def verify_sha256(sha256: str, *, expected: str | None) -> None:
    """Raises CorruptArtifact if the client sent a checksum and it differs."""
    if expected is not None and expected != sha256:
        raise CorruptArtifact(f"the archive has SHA-256 {sha256}, expected {expected}")


def register_dataset(
    name: str, archive: Path, *, sha256: str, data_dir: Path, max_bytes: int
) -> tuple[Dataset, Upload]:
    """Unpacks the archive to `data_dir/name`; on an error, nothing remains there.

    Repeating the call with the same archive changes nothing. `max_bytes` limits the size of all
    unpacked files. Raises InvalidInput for an invalid archive, Conflict if the name is taken.
    """
    dataset = datasets.find_dataset(f"{datasets.FOLDER_PREFIX}{name}")
    if dataset is None:
        raise InvalidInput(
            "the name of a dataset is 1-100 letters, digits, '-', '_' or '.', not starting with "
            f"'.'; received {name!r}"
        )
    folder = data_dir / name
    known = find_upload(folder)
    if known is not None and known.sha256 == sha256:
        return dataset, known
    if name in datasets.DATASETS or folder.exists():
        raise Conflict(f"a dataset {name!r} already exists")
    data_dir.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=data_dir, prefix=".upload-"))
    try:
        unpacked, arranged = scratch / "unpacked", scratch / "arranged"
        _unpack(archive, unpacked, max_bytes=max_bytes)
        upload = _arrange(_strip_top_folders(unpacked), arranged, sha256=sha256, archive=archive)
        arranged.chmod(0o755)
        try:
            arranged.rename(folder)
        except OSError as error:
            raise Conflict(f"a dataset {name!r} already exists") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return dataset, upload


def find_upload(folder: Path) -> Upload | None:
    """The upload that created the folder; None if an upload did not create it."""
    with suppress(OSError, ValueError, TypeError):
        return Upload(**json.loads((folder / "dataset.json").read_text()))
    return None


def _unpack(archive: Path, target: Path, *, max_bytes: int) -> None:
    budget, count = max_bytes, 0
    with closing(_members(archive)) as members:
        for name, open_content in members:
            path = _safe_path(name)
            if path is None:
                continue
            count += 1
            if count > MAX_FILES:
                limit = count_of(MAX_FILES, "file")
                raise InvalidInput(f"the archive has more than {limit}; {name!r} exceeds it")
            destination = target / path
            if destination.exists():
                raise InvalidInput(f"{name!r} is in the archive twice")
            try:
                destination.parent.mkdir(parents=True, exist_ok=True)
                with open_content() as content, destination.open("xb") as file:
                    budget -= _copy(name, content, file, budget=budget)
            except (OSError, EOFError, RuntimeError, *_BROKEN_ARCHIVE) as error:
                raise InvalidInput(f"{name!r} cannot be unpacked: {error}") from error
            _check_image(name, destination)
    if count == 0:
        raise InvalidInput("the archive has no images")


_BROKEN_ARCHIVE = (tarfile.TarError, zipfile.BadZipFile, zlib.error)


def _members(archive: Path) -> Generator[tuple[str, Callable[[], IO[bytes]]]]:
    """Name and opener of each regular file. InvalidInput for links, devices and broken archives."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                for entry in zipped.infolist():
                    if stat.S_ISLNK(entry.external_attr >> 16):
                        raise InvalidInput(f"{entry.filename!r} is a link")
                    if not entry.is_dir():
                        yield entry.filename, partial(zipped.open, entry)
            return
        with tarfile.open(archive, mode="r:*") as tarred:
            for member in tarred:
                if member.isdir():
                    continue
                content = tarred.extractfile(member) if member.isreg() else None
                if content is None:
                    raise InvalidInput(f"{member.name!r} is not a regular file")
                yield member.name, partial(_identity, content)
    except (EOFError, *_BROKEN_ARCHIVE) as error:
        raise InvalidInput(f"the archive is not a complete tar or zip file: {error}") from error


def _identity(content: IO[bytes]) -> IO[bytes]:
    return content


def _safe_path(name: str) -> Path | None:
    """The file's path inside the dataset; None for files that file managers add."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or ":" in (path.parts or ("",))[0]:
        raise InvalidInput(f"{name!r} would be unpacked outside the dataset")
    if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
        return None
    if not image_folder_layout.is_image_file(path):
        suffixes = ", ".join(sorted(image_folder_layout.IMAGE_SUFFIXES))
        raise InvalidInput(f"{name!r} is not an image file ({suffixes})")
    return Path(*path.parts)


def _copy(name: str, content: IO[bytes], file: IO[bytes], *, budget: int) -> int:
    """Copies one file and returns its size in bytes, counted rather than read from a header."""
    size = 0
    while chunk := content.read(_CHUNK_BYTES):
        size += len(chunk)
        if size > MAX_FILE_BYTES:
            limit = count_of(MAX_FILE_BYTES, "byte")
            raise InvalidInput(f"{name!r} exceeds the limit of {limit} per file")
        if size > budget:
            raise InvalidInput(f"{name!r} exceeds the size limit of the unpacked dataset")
        file.write(chunk)
    return size


def _check_image(name: str, path: Path) -> None:
    """Decodes all of the image: a truncated one has a valid header."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InvalidInput(
                    f"{name!r} is {image.width}x{image.height} pixels; "
                    f"at most {MAX_PIXELS:,} are allowed"
                )
            image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InvalidInput(f"{name!r} cannot be decoded: {error}") from error
    except Image.DecompressionBombError as error:
        raise InvalidInput(f"{name!r} has too many pixels: {error}") from error


def _strip_top_folders(unpacked: Path) -> Path:
    """The folder below those that contain nothing but one folder."""
    while True:
        entries = list(unpacked.iterdir())
        is_wrapper = len(entries) == 1 and entries[0].is_dir() and entries[0].name != "train"
        if not is_wrapper or not any(entry.is_dir() for entry in entries[0].iterdir()):
            return unpacked
        unpacked = entries[0]


def _arrange(root: Path, target: Path, *, sha256: str, archive: Path) -> Upload:
    """Moves the unpacked files to train/<class>/ and test/<class>/ under `target`."""
    train, test = target / image_folder_layout.TRAIN, target / image_folder_layout.TEST_NAMES[0]
    target.mkdir()
    if (root / image_folder_layout.TRAIN).is_dir():
        (root / image_folder_layout.TRAIN).rename(train)
        test_folder = image_folder_layout.find_test_folder(root)
        if test_folder is not None:
            test_folder.rename(test)
    else:
        root.rename(train)
    classes = _check_classes(train)
    if len(classes) < image_folder_layout.MIN_CLASSES:
        counted = count_of(len(classes), "class", "classes")
        raise InvalidInput(
            f"the archive has {counted}; at least {image_folder_layout.MIN_CLASSES} are needed"
        )
    if not test.is_dir():
        _hold_out(train, test, classes)
    unknown = sorted(set(_check_classes(test)) - set(classes))
    if unknown:
        raise InvalidInput(f"class test/{unknown[0]} is not in train/")
    upload = Upload(
        sha256=sha256,
        size_bytes=archive.stat().st_size,
        classes=len(classes),
        train_images=_count_images(train),
        test_images=_count_images(test),
    )
    (target / "dataset.json").write_text(json.dumps(asdict(upload), indent=2) + "\n")
    return upload


def _check_classes(split: Path) -> list[str]:
    """The classes of a split that holds class folders only, and they hold files only."""
    for entry in sorted(split.iterdir()):
        if not entry.is_dir():
            raise InvalidInput(f"{split.name}/{entry.name} is not in a class folder")
        for path in entry.iterdir():
            if path.is_dir():
                raise InvalidInput(f"{entry.name}/{path.name} is a folder inside a class folder")
    return image_folder_layout.list_classes(split)


def _hold_out(train: Path, test: Path, classes: list[str]) -> None:
    """Moves every fifth image of each class from `train` to `test`."""
    for name in classes:
        (test / name).mkdir(parents=True)
        for path in sorted((train / name).iterdir())[_TEST_EVERY - 1 :: _TEST_EVERY]:
            path.rename(test / name / path.name)


def _count_images(split: Path) -> int:
    count = sum(len(list(entry.iterdir())) for entry in split.iterdir())
    if count == 0:
        raise InvalidInput(
            f"the archive has no images for {split.name}/; without a test folder a class needs "
            f"at least {_TEST_EVERY} images"
        )
    return count
