"""Creates the secrets that docker-compose.yml names: `python3 deploy/make_secrets.py`.

An existing secret is kept. Needs Python only: a machine with Docker has no virtual environment.
"""

import argparse
import base64
import os
import secrets
import sys
import tempfile
from pathlib import Path

DEFAULT_PATH = Path(__file__).parent / "secrets"
# DER of a PKCS #8 private key with the algorithm Ed25519, up to its 32 bytes.
_ED25519_HEADER = bytes.fromhex("302e020100300506032b657004220420")


class SecretsError(Exception):
    """The secrets are inconsistent; the message says why."""


def make_secrets(path: Path) -> list[str]:
    """Returns the names of the created secrets. SecretsError when existing ones do not match.

    Compose mounts the files with their permissions, and each container reads them as its own
    user. So every user may read the files, but only the owner may enter the folder.
    """
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    password_path = path / "postgres_password"
    url_path = path / "resnetd_database_url"
    if url_path.exists() and not password_path.exists():
        raise SecretsError(f"{url_path} contains a password, but {password_path} does not exist")
    created = [_create(password_path, secrets.token_urlsafe(32))]
    password = password_path.read_text().strip()
    created += [
        _create(url_path, f"postgresql://resnetd:{password}@postgres:5432/resnetd"),
        _create(path / "resnetd_ray_token", secrets.token_hex(32)),
        _create(path / "resnetd_admin_token", secrets.token_urlsafe(32)),
        _create(path / "resnetd_signing_key", _generate_signing_key()),
        # None, until the operator writes the URL of a server.
        _create(path / "resnetd_smtp_url", ""),
    ]
    return [name for name in created if name is not None]


def _generate_signing_key() -> str:
    """An Ed25519 private key in PEM: 32 random bytes behind a fixed header (RFC 8410)."""
    encoded = base64.b64encode(_ED25519_HEADER + secrets.token_bytes(32)).decode()
    return f"-----BEGIN PRIVATE KEY-----\n{encoded}\n-----END PRIVATE KEY-----"


def _create(path: Path, secret: str) -> str | None:
    """Returns the file's name, or None when it already exists. It appears with its content."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".new-") as file:
        file.write(secret + "\n")
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o444)
        try:
            os.link(file.name, path)
        except FileExistsError:
            return None
    return path.name


def main() -> int:
    parser = argparse.ArgumentParser(prog="make secrets", description=__doc__)
    parser.add_argument(
        "--path", type=Path, default=DEFAULT_PATH, help="their folder (default: %(default)s)"
    )
    path = parser.parse_args().path
    try:
        created = make_secrets(path)
    except SecretsError as error:
        print(f"make secrets: {error}", file=sys.stderr)
        return 1
    if created:
        print(f"created in {path}: {', '.join(created)}")
    else:
        print(f"all secrets already exist in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
