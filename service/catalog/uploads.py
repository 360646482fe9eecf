"""Data sets of one's own: an archive of class folders, looked at file by file before it counts.

NAME.tar, .tar.gz or .zip          train/<class>/*.jpg and test/<class>/*.jpg (or val/), or
                                   <class>/*.jpg alone; one folder around it all may be there
DATA/NAME/{train,test}/<class>/    where it lies then, known as folder:NAME
DATA/NAME/dataset.json             its SHA-256 and counts

Nothing of an archive is believed: not its paths, not its sizes, not that its images are images.
A refusal names the file.
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

from service.catalog import datasets
from service.catalog.datasets import Dataset
from service.errors import Conflict, CorruptArtifact, InvalidInput

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MAX_FILES = 2_000_000
MAX_FILE_BYTES = 64 * 2**20
# Of one image: a JPEG of a few bytes may announce gigabytes of pixels.
MAX_PIXELS = 64_000_000
# An archive that has no test images gives every fifth of each class.
_TEST_EVERY = 5
_COPY_BYTES = 1 << 18
_MIN_CLASSES = 2


@dataclass(frozen=True)
class Upload:
    """What an archive turned out to hold; `sha256` is the archive's."""

    sha256: str
    size_bytes: int
    classes: int
    train_images: int
    test_images: int


async def receive_archive(
    body: AsyncIterator[bytes], target: Path, *, max_bytes: int
) -> tuple[str, int]:
    """Writes the body to the file. Returns its SHA-256 and its size. InvalidInput: too long."""
    digest, size = hashlib.sha256(), 0
    with target.open("wb") as file:
        async for chunk in body:
            size += len(chunk)
            if size > max_bytes:
                raise InvalidInput(f"an archive may have {max_bytes:,} bytes, this one has more")
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest(), size


def register_dataset(
    name: str, archive: Path, *, sha256: str, data_path: Path, max_bytes: int
) -> tuple[Dataset, Upload]:
    """Unpacks the archive as `data_path/name`. Nothing is left where it is refused.

    `max_bytes`: of all unpacked files. InvalidInput names the file that is wrong; Conflict where
    another archive has the name. The same archive under the same name changes nothing.
    """
    dataset = datasets.find_dataset(f"{datasets.FOLDER_PREFIX}{name}")
    if dataset is None:
        raise InvalidInput(
            f"a data set's name is up to 100 letters, digits or -_. and begins with none of these "
            f"last, received {name!r}"
        )
    folder = data_path / name
    known = find_upload(folder)
    if known is not None and known.sha256 == sha256:
        return dataset, known
    if name in datasets.DATASETS or folder.exists():
        raise Conflict(f"there is a data set {name} already")
    data_path.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=data_path, prefix=".upload-"))
    try:
        unpacked = scratch / "unpacked"
        _unpack(archive, unpacked, max_bytes=max_bytes)
        whole = scratch / "whole"
        upload = _arrange(_find_root(unpacked), whole, sha256=sha256, archive=archive)
        whole.chmod(0o755)
        try:
            whole.rename(folder)
        except OSError as error:
            raise Conflict(f"there is a data set {name} already") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return dataset, upload


def find_upload(folder: Path) -> Upload | None:
    """What was uploaded there. None: nothing was, whatever lies there."""
    with suppress(OSError, ValueError, TypeError):
        return Upload(**json.loads((folder / "dataset.json").read_text()))
    return None


def verify_sha256(sha256: str, *, announced: str | None) -> None:
    """CorruptArtifact where the bytes are not the announced ones."""
    if announced is not None and announced != sha256:
        raise CorruptArtifact(f"the archive has the SHA-256 {sha256}, announced was {announced}")


def _unpack(archive: Path, target: Path, *, max_bytes: int) -> None:
    budget, count = max_bytes, 0
    with closing(_members(archive)) as members:
        for name, open_content in members:
            path = _safe_path(name)
            if path is None:
                continue
            count += 1
            if count > MAX_FILES:
                raise InvalidInput(f"an archive may hold {MAX_FILES:,} files, {name!r} is one more")
            place = target / path
            if place.exists():
                raise InvalidInput(f"{name!r} is in the archive twice")
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                with open_content() as content, place.open("xb") as file:
                    budget -= _copy(name, content, file, budget=budget)
            except (OSError, EOFError, RuntimeError, *_BROKEN) as error:
                raise InvalidInput(f"{name!r} cannot be unpacked: {error}") from error
            _check_image(name, place)
    if count == 0:
        raise InvalidInput("the archive holds no images")


_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error)


def _members(archive: Path) -> Generator[tuple[str, Callable[[], IO[bytes]]]]:
    """Names of the regular files, and what opens each. InvalidInput: no archive, a link in it."""
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
                    raise InvalidInput(f"{member.name!r} is no regular file")
                yield member.name, partial(_opened, content)
    except (EOFError, *_BROKEN) as error:
        raise InvalidInput(
            f"the archive is neither a whole tar nor a whole zip: {error}"
        ) from error


def _opened(content: IO[bytes]) -> IO[bytes]:
    return content


def _safe_path(name: str) -> Path | None:
    """Where the file goes. None: it is left out. InvalidInput: it reaches out, or is no image."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or ":" in (path.parts or ("",))[0]:
        raise InvalidInput(f"{name!r} would lie outside the data set")
    if any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
        return None  # what file managers leave behind
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidInput(f"{name!r} is no image ({', '.join(sorted(SUFFIXES))})")
    return Path(*path.parts)


def _copy(name: str, content: IO[bytes], file: IO[bytes], *, budget: int) -> int:
    """Returns the bytes. What a header says of them is not asked."""
    size = 0
    while chunk := content.read(_COPY_BYTES):
        size += len(chunk)
        if size > min(budget, MAX_FILE_BYTES):
            raise InvalidInput(f"{name!r} is too big, or all files together are")
        file.write(chunk)
    return size


def _check_image(name: str, path: Path) -> None:
    """Decodes the whole image: many a broken one has a good beginning."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InvalidInput(
                    f"{name!r} has {image.width}x{image.height} pixels, {MAX_PIXELS:,} may be"
                )
            image.load()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InvalidInput(f"{name!r} is not an image that can be read: {error}") from error
    except Image.DecompressionBombError as error:
        raise InvalidInput(f"{name!r} has too many pixels: {error}") from error


def _find_root(unpacked: Path) -> Path:
    """Below the folders that stand around everything."""
    while True:
        entries = list(unpacked.iterdir())
        is_wrapper = len(entries) == 1 and entries[0].is_dir() and entries[0].name != "train"
        if not is_wrapper or not any(each.is_dir() for each in entries[0].iterdir()):
            return unpacked
        unpacked = entries[0]


def _arrange(root: Path, whole: Path, *, sha256: str, archive: Path) -> Upload:
    """Makes `whole` out of what was unpacked: train/<class>/ and test/<class>/."""
    whole.mkdir()
    if (root / "train").is_dir():
        (root / "train").rename(whole / "train")
        tests = [root / split for split in ("test", "val") if (root / split).is_dir()]
        if tests:
            tests[0].rename(whole / "test")
    else:
        root.rename(whole / "train")
    classes = _classes(whole / "train")
    if not (whole / "test").is_dir():
        _hold_out(whole, classes)
    unknown = sorted(set(_classes(whole / "test")) - set(classes))
    if unknown:
        raise InvalidInput(f"test/{unknown[0]} is a class that train/ does not have")
    upload = Upload(
        sha256=sha256,
        size_bytes=archive.stat().st_size,
        classes=len(classes),
        train_images=_count(whole / "train"),
        test_images=_count(whole / "test"),
    )
    (whole / "dataset.json").write_text(json.dumps(asdict(upload), indent=2) + "\n")
    return upload


def _classes(folder: Path) -> list[str]:
    for entry in sorted(folder.iterdir()):
        if not entry.is_dir():
            raise InvalidInput(f"{folder.name}/{entry.name} lies in no class folder")
        for path in entry.iterdir():
            if path.is_dir():
                raise InvalidInput(f"{entry.name}/{path.name} is a folder inside a class")
    classes = sorted(entry.name for entry in folder.iterdir())
    if folder.name == "train" and len(classes) < _MIN_CLASSES:
        raise InvalidInput(f"the archive holds {len(classes)} class folders, 2 are needed")
    return classes


def _hold_out(whole: Path, classes: list[str]) -> None:
    for name in classes:
        (whole / "test" / name).mkdir(parents=True)
        for path in sorted((whole / "train" / name).iterdir())[_TEST_EVERY - 1 :: _TEST_EVERY]:
            path.rename(whole / "test" / name / path.name)


def _count(folder: Path) -> int:
    count = sum(len(list(entry.iterdir())) for entry in folder.iterdir())
    if count == 0:
        raise InvalidInput(f"no images to {folder.name} with: a class needs {_TEST_EVERY} or more")
    return count
