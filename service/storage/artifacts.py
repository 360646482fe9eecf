"""The artifact store: files of checkpoints by key, in a local directory or a bucket."""

import hashlib
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, ObjectStore, S3Store, from_url

from service.errors import CorruptArtifact, InvalidInput, NotFound, Unavailable
from service.text import count_of

if TYPE_CHECKING:
    from obstore import GetOptions

_CHUNK_BYTES = 4 * 2**20
# Of multipart uploads. S3 refuses parts below 5 MiB and more than 10,000 of them.
_PART_BYTES = 8 * 2**20
_PARTS_AT_ONCE = 4
_MAX_REASON = 300


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
        self._url = url
        parts = urlsplit(url)
        is_local = parts.scheme == "file"
        self.directory = Path(url2pathname(parts.path)) if is_local else None

    def check(self) -> None:
        """Writes, reads and deletes a key of a bucket. Unavailable, as a sentence, if one fails.

        A bucket that does not exist looks empty to the other methods.
        """
        if self.directory is not None:
            return
        key = f"check-{secrets.token_hex(8)}"
        try:
            self._store.put(key, b"resnetd")
            self._store.get(key).bytes()
            self._store.delete(key)
        except (BaseError, FileNotFoundError) as error:
            raise Unavailable(
                f"the artifact store {self._url} cannot be used: {_explain(error)}"
            ) from error

    async def presign(self, key: str, *, seconds: int) -> str | None:
        """A URL from which anyone can read the key for a time; None unless the store is S3.

        It is not checked whether the key exists.
        """
        if not isinstance(self._store, S3Store):
            return None
        try:
            return await obstore.sign_async(self._store, "GET", key, timedelta(seconds=seconds))
        except BaseError as error:
            raise Unavailable(
                f"the artifact store cannot sign a URL of {key}: {_explain(error)}"
            ) from error

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
            await self._store.put_async(
                key, checked(), chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE
            )
        # FileNotFoundError: there is no such bucket.
        except (BaseError, FileNotFoundError) as error:
            raise Unavailable(
                f"the artifact store cannot write {key}: {_explain(error)}"
            ) from error
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
        except FileNotFoundError:
            return None
        except BaseError as error:
            raise Unavailable(f"the artifact store cannot read {key}: {_explain(error)}") from error

    def list_prefix(self, prefix: str) -> Iterator[ArtifactInfo]:
        """The artifacts whose keys start with the path `prefix`."""
        try:
            for chunk in self._store.list(prefix=prefix):
                for meta in chunk:
                    yield ArtifactInfo(meta["path"], meta["size"], meta["last_modified"])
        except FileNotFoundError:
            return
        except BaseError as error:
            raise Unavailable(
                f"the artifact store cannot list {prefix}: {_explain(error)}"
            ) from error

    def delete_prefix(self, prefix: str) -> None:
        self.delete([artifact.key for artifact in self.list_prefix(prefix)])

    def delete(self, keys: list[str]) -> None:
        """Keys that do not exist are ignored."""
        for key in keys:
            try:
                self._store.delete(key)
            except FileNotFoundError:
                continue
            except BaseError as error:
                raise Unavailable(
                    f"the artifact store cannot delete {key}: {_explain(error)}"
                ) from error


@contextmanager
def _converting_errors_of_read(key: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"no artifact {key}") from error
    except BaseError as error:
        raise Unavailable(f"the artifact store cannot read {key}: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    """The first line of obstore's message, which documents for debuggers follow."""
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return "it refuses the credentials of this process, or they do not permit this"
    return str(error).partition("\n")[0].partition(": <?xml")[0][:_MAX_REASON].rstrip(": ")


def _open(url: str) -> ObjectStore:
    parts = urlsplit(url)
    try:
        if parts.scheme == "file":
            return LocalStore(Path(url2pathname(parts.path)), mkdir=True, automatic_cleanup=True)
        return from_url(url)
    except (BaseError, OSError, ValueError) as error:
        raise InvalidInput(
            "RESNETD_ARTIFACTS_URL: must be a writable file:///PATH, or s3://BUCKET/PREFIX, gs:// "
            f"or az://; received {url!r} ({_explain(error)})"
        ) from error
