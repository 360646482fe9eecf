"""The key with which the service signs result cards: Ed25519 (RFC 8032), in a file."""

import hashlib
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from service.access import secret_files
from service.errors import InvalidInput


class SigningKey:
    """`public_key` is in PEM; `fingerprint` is the SHA-256 of its DER encoding, as hex."""

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        public_key = private_key.public_key()
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        self.public_key = public_key.public_bytes(serialization.Encoding.PEM, spki).decode()
        der = public_key.public_bytes(serialization.Encoding.DER, spki)
        self.fingerprint = hashlib.sha256(der).hexdigest()

    def sign(self, content: bytes) -> bytes:
        """64 bytes, the same for the same content."""
        return self._private_key.sign(content)


def read_or_create(path: Path) -> SigningKey:
    """The key in the file; a missing file is created with a new one, readable by its owner.

    All API processes of a service need the same file. InvalidInput names what is wrong with it.
    """
    try:
        if not path.exists():
            secret_files.create_once(path, _generate())
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"RESNETD_SIGNING_KEY_FILE: {path} cannot be read or created: {error}"
        ) from error
    try:
        private_key = serialization.load_pem_private_key(content, password=None)
    except (TypeError, ValueError):
        private_key = None
    if not isinstance(private_key, Ed25519PrivateKey):
        # Without the cause, whose message may have a part of the key.
        raise InvalidInput(
            f"RESNETD_SIGNING_KEY_FILE: {path} must have an Ed25519 private key in PEM without a "
            "password, as `openssl genpkey -algorithm ed25519` writes it"
        ) from None
    return SigningKey(private_key)


def _generate() -> str:
    encoded = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return encoded.decode()
