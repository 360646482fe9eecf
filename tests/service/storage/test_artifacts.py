"""The artifact store: a key appears with its bytes and digest, or not at all."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from service.errors import CorruptArtifact, InvalidInput, NotFound, Unavailable
from service.storage.artifacts import ArtifactStore, StoredArtifact

CONTENT = b"weights" * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore((tmp_path / "artifacts").as_uri())


def _write(
    store: ArtifactStore,
    content: bytes = CONTENT,
    *,
    sha256: str = SHA256,
    max_bytes: int = 10**9,
    chunk: int = 64,
) -> StoredArtifact:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(content), chunk):
            yield content[start : start + chunk]

    return asyncio.run(store.write("a/b", chunks(), sha256=sha256, max_bytes=max_bytes))


def _files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]


def test_written_bytes_are_read(store: ArtifactStore) -> None:
    assert _write(store) == StoredArtifact(sha256=SHA256, size_bytes=len(CONTENT))
    assert store.size("a/b") == len(CONTENT)
    assert b"".join(store.read("a/b")) == CONTENT


def test_a_bucket_stores_lists_and_deletes() -> None:
    """obstore's store in memory behaves as its buckets do: a path is a key, without folders."""
    bucket = ArtifactStore("memory:///")
    _write(bucket)
    assert b"".join(bucket.read("a/b", range(7, 14))) == CONTENT[7:14]
    assert [(found.key, found.size_bytes) for found in bucket.list_prefix("a/")] == [
        ("a/b", len(CONTENT))
    ]
    with pytest.raises(CorruptArtifact):
        _write(bucket, b"other")
    assert b"".join(bucket.read("a/b")) == CONTENT
    bucket.delete(["no/such", "a/b"])
    assert bucket.size("a/b") is None
    with pytest.raises(NotFound):
        bucket.read("a/b")


def test_a_large_artifact_is_read_in_several_chunks(store: ArtifactStore) -> None:
    content = bytes(9 * 2**20)
    _write(store, content, sha256=hashlib.sha256(content).hexdigest(), chunk=2**20)
    chunks = store.read("a/b")
    assert isinstance(chunks, Iterator)
    assert len(list(chunks)) > 1


def test_corrupt_bytes_leave_nothing_behind(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match=SHA256):
        _write(store, CONTENT[:-1])
    assert store.size("a/b") is None
    assert _files(tmp_path) == []


def test_large_corrupt_bytes_leave_nothing_behind(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact):
        _write(store, bytes(13 * 2**20), chunk=2**20)
    assert _files(tmp_path) == []


def test_corrupt_bytes_keep_the_existing_artifact(store: ArtifactStore) -> None:
    _write(store)
    with pytest.raises(CorruptArtifact):
        _write(store, b"other")
    assert b"".join(store.read("a/b")) == CONTENT


def test_an_artifact_over_the_limit_is_refused(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="exceeds the limit of 100 bytes"):
        _write(store, max_bytes=100)
    assert _files(tmp_path) == []


def test_an_interrupted_upload_leaves_nothing_behind(store: ArtifactStore, tmp_path: Path) -> None:
    async def breaks_off() -> AsyncIterator[bytes]:
        yield CONTENT[:100]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        asyncio.run(store.write("a/b", breaks_off(), sha256=SHA256, max_bytes=10**9))
    assert _files(tmp_path) == []


def test_a_repeated_write_replaces_the_earlier_one(store: ArtifactStore) -> None:
    _write(store, b"earlier", sha256=hashlib.sha256(b"earlier").hexdigest())
    _write(store)
    assert b"".join(store.read("a/b")) == CONTENT


def test_an_artifact_without_bytes_is_refused(store: ArtifactStore) -> None:
    with pytest.raises(InvalidInput, match="no bytes"):
        _write(store, b"", sha256=hashlib.sha256(b"").hexdigest())
    assert store.size("a/b") is None


def test_a_missing_key_is_not_found(store: ArtifactStore) -> None:
    assert store.size("no/such") is None
    with pytest.raises(NotFound, match="no/such"):
        store.read("no/such")


def test_deleting_a_missing_key_does_nothing(store: ArtifactStore) -> None:
    _write(store)
    store.delete(["no/such", "a/b", "a/b"])
    assert store.size("a/b") is None


def test_a_store_that_cannot_write_is_unavailable(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "artifacts" / "a").write_text("a file in place of a folder")
    with pytest.raises(Unavailable):
        _write(store)


def test_a_url_of_an_unknown_store_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"RESNETD_ARTIFACTS_URL: .*gopher"):
        ArtifactStore("gopher://x")
