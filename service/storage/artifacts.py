"""The artifact store: bytes of checkpoints, in a local directory or a bucket, by key.

A key appears whole or not at all: the store writes aside first and renames.
"""

import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from service.errors import CorruptArtifact, InvalidInput, NotFound, Unavailable

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
    def __init__(self, url: str) -> None:
        self._store = _open(url)

    async def write(
        self, key: str, chunks: AsyncIterator[bytes], *, sha256: str, max_bytes: int
    ) -> StoredArtifact:
        """Streams to `key`. CorruptArtifact, and nothing kept, where the digest differs."""
        digest = hashlib.sha256()
        size_bytes = 0

        async def checked() -> AsyncIterator[bytes]:
            nonlocal size_bytes
            async for chunk in chunks:
                digest.update(chunk)
                size_bytes += len(chunk)
                if size_bytes > max_bytes:
                    raise InvalidInput(f"larger than the {max_bytes} bytes that are allowed")
                if chunk:
                    yield chunk
            # Raised before the last chunk is confirmed, so the store never shows the key.
            if digest.hexdigest() != sha256:
                raise CorruptArtifact(
                    f"the bytes have SHA-256 {digest.hexdigest()}, the request says {sha256}"
                )

        try:
            await self._store.put_async(key, checked(), chunk_size=_CHUNK_BYTES)
        except BaseError as error:
            raise Unavailable(f"the artifact store cannot write {key}: {error}") from error
        return StoredArtifact(sha256=sha256, size_bytes=size_bytes)

    def read(self, key: str) -> Iterator[bytes]:
        """The bytes, in chunks. NotFound where the key does not exist."""
        try:
            result = self._store.get(key)
        except (NotFoundError, FileNotFoundError) as error:
            raise NotFound(f"no artifact {key}") from error
        except BaseError as error:
            raise Unavailable(f"the artifact store cannot read {key}: {error}") from error
        return (bytes(chunk) for chunk in result.stream(min_chunk_size=_CHUNK_BYTES))

    def size(self, key: str) -> int | None:
        """In bytes; None where the key does not exist."""
        try:
            return self._store.head(key)["size"]
        except (NotFoundError, FileNotFoundError):
            return None
        except BaseError as error:
            raise Unavailable(f"the artifact store cannot read {key}: {error}") from error

    def listed(self, prefix: str) -> Iterator[ArtifactInfo]:
        """All keys below the prefix, which ends at a slash."""
        try:
            for chunk in self._store.list(prefix=prefix):
                for one in chunk:
                    yield ArtifactInfo(one["path"], one["size"], one["last_modified"])
        except (NotFoundError, FileNotFoundError):
            return
        except BaseError as error:
            raise Unavailable(f"the artifact store cannot list {prefix}: {error}") from error

    def delete_below(self, prefix: str) -> None:
        self.delete([one.key for one in self.listed(prefix)])

    def delete(self, keys: list[str]) -> None:
        """A key that does not exist is as good as deleted."""
        for key in keys:
            try:
                self._store.delete(key)
            except (NotFoundError, FileNotFoundError):
                continue
            except BaseError as error:
                raise Unavailable(f"the artifact store cannot delete {key}: {error}") from error


def _open(url: str) -> ObjectStore:
    parts = urlsplit(url)
    if parts.scheme == "file":
        return LocalStore(Path(url2pathname(parts.path)), mkdir=True, automatic_cleanup=True)
    try:
        return from_url(url)
    except BaseError as error:
        raise InvalidInput(f"the artifact store's URL cannot be used: {error}") from error
