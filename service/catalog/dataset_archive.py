"""The archive in which nodes receive an uploaded dataset: a tar, the same for the same images."""

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from service.catalog.image_folder_layout import TEST, TRAIN
from service.errors import CorruptArtifact

_CHUNK_BYTES = 1 << 20
_END = bytes(2 * tarfile.BLOCKSIZE)


def stream_archive(folder: Path) -> Iterator[bytes]:
    """The images of the dataset in chunks of about 1 MiB, read while they are sent."""
    buffer = bytearray()
    for piece in _list_pieces(folder):
        buffer += piece
        if len(buffer) >= _CHUNK_BYTES:
            yield bytes(buffer)
            buffer.clear()
    yield bytes(buffer)


def hash_archive(folder: Path) -> str:
    """The SHA-256 of the archive."""
    digest = hashlib.sha256()
    for chunk in stream_archive(folder):
        digest.update(chunk)
    return digest.hexdigest()


def unpack_archive(chunks: Iterable[bytes], folder: Path, *, sha256: str) -> None:
    """Writes the images below a new folder. CorruptArtifact if the bytes differ."""
    reader = _HashingReader(chunks)
    folder.mkdir()
    try:
        with tarfile.open(fileobj=reader, mode="r|") as archive:
            for member in archive:
                _unpack_member(archive, member, folder)
        while reader.read(_CHUNK_BYTES):
            pass
    except tarfile.TarError as error:
        raise CorruptArtifact(f"the archive of the dataset cannot be read: {error}") from error
    if reader.sha256 != sha256:
        raise CorruptArtifact(f"the dataset has the SHA-256 {reader.sha256}, not {sha256}")


def _list_pieces(folder: Path) -> Iterator[bytes]:
    for split in (TRAIN, TEST):
        # Class folders without images, too: a test folder may have some.
        for path in [folder / split, *sorted((folder / split).rglob("*"))]:
            # Without time and owner, which differ between machines.
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            if path.is_dir():
                entry.type = tarfile.DIRTYPE
                yield entry.tobuf(tarfile.PAX_FORMAT)
                continue
            entry.size = path.stat().st_size
            yield entry.tobuf(tarfile.PAX_FORMAT)
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK_BYTES):
                    yield chunk
            yield bytes(-entry.size % tarfile.BLOCKSIZE)
    yield _END


def _unpack_member(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise CorruptArtifact(f"{member.name!r} would be unpacked outside the dataset")
    target = folder / path
    if member.isdir():
        target.mkdir()
        return
    content = archive.extractfile(member)
    if content is None:
        raise CorruptArtifact(f"{member.name!r} is not a regular file")
    with target.open("xb") as file:
        while chunk := content.read(_CHUNK_BYTES):
            file.write(chunk)


class _HashingReader(io.RawIOBase):
    """Chunks as a file, with the SHA-256 of what was read."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._buffer = bytearray()
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def read(self, size: int = -1) -> bytes:
        assert size >= 0, "tarfile reads blocks"
        while len(self._buffer) < size and (chunk := next(self._chunks, b"")):
            self._buffer += chunk
        content = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._digest.update(content)
        return content
