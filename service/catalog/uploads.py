"""Uploaded datasets: archives of image folders, checked file by file and unpacked.

NAME.tar, .tar.gz or .zip           an image folder (image_folder_layout)
DATA/NAME/{train,test}/<class>/     the unpacked dataset, known as folder:NAME
DATA/NAME/dataset.json              SHA-256s, classes and counts

An archive is untrusted: paths, sizes and images are checked. An error names the file. A disk that
is full or read-only is not the user's mistake: Unavailable.
"""

import asyncio
import errno
import hashlib
import json
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from service.catalog import dataset_archive, datasets, image_folder_layout
from service.catalog.datasets import Dataset, DatasetOrigin
from service.catalog.image_folder_layout import TEST, TRAIN, ImageFile, LayoutError
from service.errors import Conflict, CorruptArtifact, InvalidInput, Unavailable
from service.text import count_of

MAX_FILES = 2_000_000
MAX_FILE_BYTES = 64 * 2**20
# Per image: a file of a few bytes can decode to gigabytes.
MAX_PIXELS = 64_000_000
_CHUNK_BYTES = 256 * 1024
# Errors of the machine's disks and limits; others are caused by the names in an archive.
_MACHINE_ERRORS = frozenset(
    {
        errno.EACCES,
        errno.EDQUOT,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EPERM,
        errno.EROFS,
        errno.ESTALE,
    }
)
# Decompressors raise EOFError and OSError, too; the latter without a number.
_BROKEN_ARCHIVE = (
    EOFError,
    NotImplementedError,  # a compression that zipfile does not know
    RuntimeError,  # an encrypted zip
    UnicodeError,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


# Of an upload, buffered between two writes.
_WRITE_BYTES = 4 * 2**20

SCRATCH_PREFIX = ".upload-"
# Of a scratch folder without a new file: an upload that runs adds one every few seconds.
_MIN_ABANDONED_AGE = timedelta(days=1)


@dataclass(frozen=True)
class Upload:
    """Contents of an uploaded archive; `sha256` and `size_bytes` are the archive's.

    `stored_bytes`: of the images that were unpacked; `content_sha256`: of the archive in which
    nodes receive them (dataset_archive). `user`: who uploaded it. `class_names` in the
    order of their labels. `skipped`: number of files by what they are.
    """

    user: str
    sha256: str
    size_bytes: int
    stored_bytes: int
    content_sha256: str
    class_names: list[str]
    train_images: int
    test_images: int
    skipped: dict[str, int]


@contextmanager
def spool_archive(data_dir: Path) -> Iterator[Path]:
    """A path for an archive while it is received and unpacked, on the volume of the datasets.

    The file has no name in the folder, so that nothing is left of it when the process is killed.
    """
    with convert_machine_errors():
        data_dir.mkdir(parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(dir=data_dir)  # noqa: SIM115 - closed below
    with file:
        yield Path(f"/proc/self/fd/{file.fileno()}")


async def receive_archive(
    body: AsyncIterator[bytes], target: Path, *, max_bytes: int
) -> tuple[str, int]:
    """Writes the body to a file and returns its SHA-256 and its size in bytes.

    In threads, since a slow disk must not delay other requests.
    """
    digest, size = hashlib.sha256(), 0
    buffer = bytearray()

    def write_buffer() -> None:
        digest.update(buffer)
        file.write(buffer)
        buffer.clear()

    with convert_machine_errors(), target.open("wb") as file:
        async for chunk in body:
            size += len(chunk)
            if size > max_bytes:
                raise InvalidInput(
                    f"the archive exceeds the limit of {count_of(max_bytes, 'byte')}"
                )
            buffer += chunk
            if len(buffer) >= _WRITE_BYTES:
                await asyncio.to_thread(write_buffer)
        await asyncio.to_thread(write_buffer)
    return digest.hexdigest(), size


def verify_sha256(sha256: str, *, expected: str | None) -> None:
    """Raises CorruptArtifact if the client sent a checksum and it differs."""
    if expected is not None and expected != sha256:
        raise CorruptArtifact(f"the archive has SHA-256 {sha256}, expected {expected}")


def register_dataset(
    name: str,
    archive: Path,
    *,
    user: str,
    sha256: str,
    data_dir: Path,
    max_bytes: int,
    admit: Callable[[int], AbstractContextManager[object]] = nullcontext,
) -> tuple[Dataset, Upload]:
    """Unpacks the archive to `data_dir/name`; on an error, nothing remains there.

    `admit` is entered with the number of bytes while the dataset comes into being; it may raise.
    Repeating the call with the same archive changes nothing. `max_bytes` limits the size of all
    unpacked files. Raises InvalidInput for an invalid archive, Conflict if the name is taken.
    """
    dataset = datasets.find_dataset(f"{datasets.FOLDER_PREFIX}{name}")
    if dataset is None:
        raise InvalidInput(
            "the name of a dataset is 1-100 letters, digits, '-', '_' or '.', at most 180 bytes, "
            f"not starting with '.', and not {datasets.WEIGHTS_FOLDER!r}; received {name!r}"
        )
    folder = data_dir / name
    known = find_upload(folder)
    if known is not None and known.sha256 == sha256:
        return dataset, known
    if name in datasets.DATASETS or folder.exists():
        raise Conflict(f"a dataset {name!r} already exists")
    with convert_machine_errors():
        data_dir.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=data_dir, prefix=SCRATCH_PREFIX))
    try:
        unpacked, arranged = scratch / "unpacked", scratch / "arranged"
        with convert_machine_errors():
            skipped = _unpack(archive, unpacked, max_bytes=max_bytes)
            upload = _arrange(
                unpacked, arranged, skipped, user=user, sha256=sha256, archive=archive
            )
            arranged.chmod(0o755)
        with admit(upload.stored_bytes):
            try:
                arranged.rename(folder)
            except OSError as error:
                raise Conflict(f"a dataset {name!r} already exists") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return dataset, upload


def list_uploads(data_dir: Path) -> list[tuple[str, Upload]]:
    """The names of the datasets with their uploads, by name."""
    folders = sorted(path.parent for path in data_dir.glob("*/dataset.json"))
    found = ((f"{datasets.FOLDER_PREFIX}{path.name}", find_upload(path)) for path in folders)
    return [(name, upload) for name, upload in found if upload is not None]


def count_bytes(data_dir: Path) -> Counter[str]:
    """Of the images of datasets that people uploaded, by person."""
    counted: Counter[str] = Counter()
    for _, upload in list_uploads(data_dir):
        counted[upload.user] += upload.stored_bytes
    return counted


def remove_dataset(name: str, data_dir: Path) -> Path:
    """Takes the folder of an uploaded dataset away at once; returns what is left to delete.

    If this process is killed before it does so, `delete_abandoned` does.
    """
    with convert_machine_errors():
        scratch = Path(tempfile.mkdtemp(dir=data_dir, prefix=SCRATCH_PREFIX))
        folder_of(name, data_dir).rename(scratch / "removed")
    return scratch


def delete_abandoned(data_dir: Path, *, now: datetime) -> int:
    """Deletes scratch folders of API processes that were killed. Returns their number."""
    deleted = 0
    for path in data_dir.glob(f"{SCRATCH_PREFIX}*"):
        with suppress(FileNotFoundError):  # the upload has ended
            if now.timestamp() - path.stat().st_mtime > _MIN_ABANDONED_AGE.total_seconds():
                shutil.rmtree(path, ignore_errors=True)
                deleted += 1
    return deleted


def describe_dataset(name: str, data_dir: Path) -> Dataset:
    """The dataset with the classes and counts of its folder, as far as they are known.

    `name`: of a validated spec, or of a known dataset.
    """
    dataset = datasets.find_dataset(name)
    assert dataset is not None, name
    if dataset.origin is not DatasetOrigin.FOLDER:
        return dataset
    folder = folder_of(name, data_dir)
    upload = find_upload(folder)
    if upload is not None:
        return replace(
            dataset,
            classes=len(upload.class_names),
            class_names=tuple(upload.class_names),
            train_images=upload.train_images,
            test_images=upload.test_images,
        )
    with suppress(OSError, LayoutError):
        names = image_folder_layout.list_class_names(folder)
        if names:
            return replace(dataset, classes=len(names), class_names=tuple(names))
    return dataset


def find_sha256(name: str, data_dir: Path) -> str | None:
    """Of the archive that created the dataset's folder; None if no upload did."""
    dataset = datasets.find_dataset(name)
    if dataset is None or dataset.origin is not DatasetOrigin.FOLDER:
        return None
    upload = find_upload(folder_of(name, data_dir))
    return None if upload is None else upload.sha256


def folder_of(name: str, data_dir: Path) -> Path:
    """Of an image folder; an upload has a `dataset.json` there."""
    return data_dir / name.removeprefix(datasets.FOLDER_PREFIX)


def find_upload(folder: Path) -> Upload | None:
    """The upload that created the folder; None if an upload did not create it."""
    with suppress(OSError, ValueError, TypeError):
        return Upload(**json.loads((folder / "dataset.json").read_text(encoding="utf-8")))
    return None


@contextmanager
def convert_machine_errors() -> Iterator[None]:
    """Unavailable for what the machine's administrator must mend, such as a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in _MACHINE_ERRORS:
            raise
        raise Unavailable(f"uploads cannot be stored now: {error.strerror}") from error


def _unpack(archive: Path, target: Path, *, max_bytes: int) -> Counter[str]:
    """Writes all images below `target`; returns the number of skipped files by what they are."""
    target.mkdir()
    skipped: Counter[str] = Counter()
    budget, count, images = max_bytes, 0, 0
    with closing(_members(archive)) as members:
        for name, open_content in members:
            path = _safe_path(name)
            leaving = image_folder_layout.find_leaving(path)
            count += 1
            if count > MAX_FILES:
                limit = count_of(MAX_FILES, "file")
                raise InvalidInput(f"the archive has more than {limit}; {name!r} exceeds it")
            if leaving is not None:
                if open_content is not None:
                    skipped[leaving] += 1
                continue
            destination = target / path
            with _convert_archive_errors(name):
                if open_content is None:
                    destination.mkdir(parents=True, exist_ok=True)
                    continue
                if not image_folder_layout.is_image_file(path):
                    raise InvalidInput(image_folder_layout.describe_unknown_file(repr(name)))
                if destination.exists():
                    raise InvalidInput(f"{name!r} is in the archive twice")
                destination.parent.mkdir(parents=True, exist_ok=True)
                with open_content() as content, destination.open("xb") as file:
                    budget -= _copy(name, content, file, budget=budget)
            _check_image(name, destination)
            images += 1
            # New files in subfolders do not change the time of the scratch folder.
            os.utime(target.parent)
    if images == 0:
        raise InvalidInput("the archive has no images")
    return skipped


@contextmanager
def _convert_archive_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _MACHINE_ERRORS:
            raise
        raise InvalidInput(f"{name!r} cannot be unpacked: {error.strerror or error}") from error
    except _BROKEN_ARCHIVE as error:
        raise InvalidInput(f"{name!r} cannot be unpacked: {error}") from error


def _members(archive: Path) -> Generator[tuple[str, Callable[[], IO[bytes]] | None]]:
    """Name and opener of each file; None opens a folder.

    InvalidInput for links, devices and broken archives.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                for entry in zipped.infolist():
                    if stat.S_ISLNK(entry.external_attr >> 16):
                        raise InvalidInput(f"{entry.filename!r} is a link")
                    yield entry.filename, None if entry.is_dir() else partial(zipped.open, entry)
            return
        with tarfile.open(archive, mode="r:*") as tarred:
            for member in tarred:
                content = tarred.extractfile(member) if member.isreg() else None
                if content is None and not member.isdir():
                    raise InvalidInput(f"{member.name!r} is not a regular file")
                yield member.name, None if content is None else partial(_identity, content)
            _read_to_end(tarred)
    except OSError as error:
        if error.errno is not None:
            raise
        raise _broken_archive(error) from error
    except _BROKEN_ARCHIVE as error:
        raise _broken_archive(error) from error


def _read_to_end(tarred: tarfile.TarFile) -> None:
    """A compressed stream is checked against its checksum where it ends, behind the last file."""
    size = 0
    assert tarred.fileobj is not None
    while chunk := tarred.fileobj.read(_CHUNK_BYTES):
        size += len(chunk)
        if size > MAX_FILE_BYTES:
            raise InvalidInput("the archive has data behind its end")


def _broken_archive(error: Exception) -> InvalidInput:
    # tarfile lists what each compression says, a line for each.
    reason = str(error).partition("\n")[0].rstrip(":")
    return InvalidInput(f"the archive is not a complete tar or zip file: {reason}")


def _identity(content: IO[bytes]) -> IO[bytes]:
    return content


def _safe_path(name: str) -> PurePosixPath:
    """The file's path inside the dataset."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or ":" in (path.parts or ("",))[0]:
        raise InvalidInput(f"{name!r} would be unpacked outside the dataset")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the name {name!r} is not UTF-8") from error
    return path


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
    # Imported here: the dispatcher reads uploads, too, and is installed without Pillow.
    from PIL import Image, UnidentifiedImageError  # noqa: PLC0415

    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InvalidInput(
                    f"{name!r} is {image.width}x{image.height} pixels; "
                    f"at most {MAX_PIXELS:,} are allowed"
                )
            image.load()
            problem = image_folder_layout.find_mode_problem(image.mode)
            if problem is not None:
                raise InvalidInput(f"{name!r} {problem}")
    except UnidentifiedImageError as error:
        # Its message has the path on this machine.
        message = f"{name!r} cannot be decoded: its format is not known"
        raise InvalidInput(message) from error
    except (OSError, SyntaxError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise InvalidInput(f"{name!r} cannot be decoded: {reason}") from error
    except Image.DecompressionBombError as error:
        raise InvalidInput(f"{name!r} has too many pixels: {error}") from error


def _arrange(
    unpacked: Path, target: Path, skipped: Counter[str], *, user: str, sha256: str, archive: Path
) -> Upload:
    """Moves the unpacked files to train/<class>/ and test/<class>/ under `target`."""
    try:
        found = image_folder_layout.read_image_folder(unpacked)
    except LayoutError as error:
        raise InvalidInput(f"the archive is not an image folder: {error}") from error
    stored_bytes = sum(file.path.stat().st_size for file in [*found.train, *found.test])
    for split, files in ((TRAIN, found.train), (TEST, found.test)):
        for class_name in found.classes:
            (target / split / class_name).mkdir(parents=True)
        _move(files, target / split, found.classes)
    upload = Upload(
        user=user,
        sha256=sha256,
        size_bytes=archive.stat().st_size,
        stored_bytes=stored_bytes,
        content_sha256=dataset_archive.hash_archive(target),
        class_names=found.classes,
        train_images=len(found.train),
        test_images=len(found.test),
        skipped=dict(skipped + found.skipped),
    )
    document = json.dumps(asdict(upload), indent=2, ensure_ascii=False)
    (target / "dataset.json").write_text(document + "\n", encoding="utf-8")
    return upload


def _move(files: list[ImageFile], split: Path, classes: list[str]) -> None:
    for file in files:
        file.path.rename(split / classes[file.label] / file.path.name)
