"""The artifact store: files of checkpoints by key, in a local directory or a bucket."""

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from service.errors import CorruptArtifact, InvalidInput, NotFound, Unavailable
from service.text import count_of

if TYPE_CHECKING:
    from obstore import GetOptions

_CHUNK_BYTES = 4 * 2**20


@dataclass(frozen=True)
class StoredArtifact:
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class ArtifactInfo:
    key: str
    size_bytes: int
    modified_at: datetime


class ArtifactStore:
    """A key appears with all its bytes or not at all. Unavailable if the store does not respond.

    `directory`: of a store on a disk; None of a bucket.
    """

    def __init__(self, url: str) -> None:
        self._store = _open(url)
        parts = urlsplit(url)
        is_local = parts.scheme == "file"
        self.directory = Path(url2pathname(parts.path)) if is_local else None

    async def write(
        self, key: str, chunks: AsyncIterator[bytes], *, sha256: str, max_bytes: int
    ) -> StoredArtifact:
        """Streams the chunks to `key`.

        Raises CorruptArtifact if their SHA-256 differs, InvalidInput if there are none or more than
        `max_bytes`; then an existing artifact of that key is unchanged.
        """
        digest = hashlib.sha256()
        size_bytes = 0

        async def checked() -> AsyncIterator[bytes]:
            nonlocal size_bytes
            async for chunk in chunks:
                digest.update(chunk)
                size_bytes += len(chunk)
                if size_bytes > max_bytes:
                    raise InvalidInput(
                        f"the artifact exceeds the limit of {count_of(max_bytes, 'byte')}"
                    )
                if chunk:
                    yield chunk
            # Raised before the upload is completed, so the key does not appear.
            if digest.hexdigest() != sha256:
                raise CorruptArtifact(
                    f"the artifact has SHA-256 {digest.hexdigest()}, expected {sha256}"
                )
            if size_bytes == 0:
                raise InvalidInput("the artifact has no bytes")

        try:
            await self._store.put_async(key, checked(), chunk_size=_CHUNK_BYTES)
        except BaseError as error:
            raise Unavailable(f"the artifact store cannot write {key}: {error}") from error
        return StoredArtifact(sha256=sha256, size_bytes=size_bytes)

    def read(self, key: str, byte_range: range | None = None) -> Iterator[bytes]:
        """The bytes, or those of the range, in chunks. NotFound if the key does not exist."""
        options: GetOptions = (
            {} if byte_range is None else {"range": (byte_range.start, byte_range.stop)}
        )
        with _converting_errors_of_read(key):
            result = self._store.get(key, options=options)
        return (bytes(chunk) for chunk in result.stream(min_chunk_size=_CHUNK_BYTES))

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        """The bytes, as from `read`; for `write`, in whose event loop `read` cannot wait."""
        with _converting_errors_of_read(key):
            result = await self._store.get_async(key)
            async for chunk in result.stream(min_chunk_size=_CHUNK_BYTES):
                yield bytes(chunk)

    def size(self, key: str) -> int | None:
        """Size in bytes; None if the key does not exist."""
        try:
            return self._store.head(key)["size"]
        except (NotFoundError, FileNotFoundError):
            return None
        except BaseError as error:
            raise Unavailable(f"the artifact store cannot read {key}: {error}") from error

    def list_prefix(self, prefix: str) -> Iterator[ArtifactInfo]:
        """The artifacts whose keys start with the path `prefix`."""
        try:
            for chunk in self._store.list(prefix=prefix):
                for meta in chunk:
                    yield ArtifactInfo(meta["path"], meta["size"], meta["last_modified"])
        except (NotFoundError, FileNotFoundError):
            return
        except BaseError as error:
            raise Unavailable(f"the artifact store cannot list {prefix}: {error}") from error

    def delete_prefix(self, prefix: str) -> None:
        self.delete([artifact.key for artifact in self.list_prefix(prefix)])

    def delete(self, keys: list[str]) -> None:
        """Keys that do not exist are ignored."""
        for key in keys:
            try:
                self._store.delete(key)
            except (NotFoundError, FileNotFoundError):
                continue
            except BaseError as error:
                raise Unavailable(f"the artifact store cannot delete {key}: {error}") from error


@contextmanager
def _converting_errors_of_read(key: str) -> Iterator[None]:
    try:
        yield
    except (NotFoundError, FileNotFoundError) as error:
        raise NotFound(f"no artifact {key}") from error
    except BaseError as error:
        raise Unavailable(f"the artifact store cannot read {key}: {error}") from error


def _open(url: str) -> ObjectStore:
    parts = urlsplit(url)
    try:
        if parts.scheme == "file":
            return LocalStore(Path(url2pathname(parts.path)), mkdir=True, automatic_cleanup=True)
        return from_url(url)
    except (BaseError, OSError, ValueError) as error:
        # The lines below the first are for debuggers.
        reason = str(error).partition("\n")[0]
        raise InvalidInput(
            "RESNETD_ARTIFACTS_URL: must be a writable file:///PATH, or s3://BUCKET/PREFIX, gs:// "
            f"or az://; received {url!r} ({reason})"
        ) from error
