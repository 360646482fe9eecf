"""The key that signs result cards: created once, private, and refused where it is another file."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from service.access import signing_keys
from service.errors import InvalidInput


def test_a_new_key_is_readable_by_its_owner_only_and_is_reused(tmp_path: Path) -> None:
    path = tmp_path / "new" / "signing-key.pem"
    created = signing_keys.read_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert signing_keys.read_or_create(path).fingerprint == created.fingerprint


def test_processes_that_create_the_key_at_once_agree(tmp_path: Path) -> None:
    path = tmp_path / "signing-key.pem"
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: signing_keys.read_or_create(path).fingerprint, range(16)))
    assert len(set(found)) == 1
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_signatures_are_equal_for_equal_content_and_fit_the_public_key(tmp_path: Path) -> None:
    key = signing_keys.read_or_create(tmp_path / "key")
    assert key.sign(b"content") == key.sign(b"content")
    public_key = serialization.load_pem_public_key(key.public_key.encode())
    public_key.verify(key.sign(b"content"), b"content")  # type: ignore[call-arg, union-attr]


def _make_other_key() -> bytes:
    return generate_private_key(SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"a-secret-in-another-format", b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n", None],
    ids=["empty", "text", "truncated", "another algorithm"],
)
def test_another_file_is_refused_without_its_content(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(_make_other_key() if content is None else content)
    with pytest.raises(InvalidInput, match=r"^RESNETD_SIGNING_KEY_FILE: ") as refused:
        signing_keys.read_or_create(path)
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_file_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInput, match=r"^RESNETD_SIGNING_KEY_FILE: .*/file/key cannot be"):
        signing_keys.read_or_create(tmp_path / "file" / "key")
