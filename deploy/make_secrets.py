"""Makes the secrets that docker-compose.yml names: `python3 deploy/make_secrets.py`, once.

A secret that is there stays as it is. Needs nothing but Python: a machine with Docker has no
environment of ours.
"""

import argparse
import os
import secrets
import sys
from pathlib import Path

DEFAULT_PATH = Path(__file__).parent / "secrets"


class CannotMake(Exception):
    """One sentence that says why."""


def make_secrets(path: Path) -> list[str]:
    """The names of those that were made. CannotMake where what is there does not fit together.

    Compose mounts the files as they are, and each container reads them as a user of its own. So
    the files are open to read and the folder is closed: nobody else of this machine gets there.
    """
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)
    password_path = path / "postgres_password"
    url_path = path / "resnetd_database_url"
    if url_path.exists() and not password_path.exists():
        raise CannotMake(f"{url_path} holds a password, but {password_path} is gone")
    made = [_make(password_path, secrets.token_urlsafe(32))]
    password = password_path.read_text().strip()
    made += [
        _make(url_path, f"postgresql://resnetd:{password}@postgres:5432/resnetd"),
        _make(path / "resnetd_ray_token", secrets.token_hex(32)),
        _make(path / "resnetd_admin_token", secrets.token_urlsafe(32)),
    ]
    return [name for name in made if name is not None]


def _make(path: Path, secret: str) -> str | None:
    """The file's name, or None where it was there."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return None
    with os.fdopen(handle, "w") as file:
        file.write(secret + "\n")
    path.chmod(0o444)
    return path.name


def main() -> int:
    parser = argparse.ArgumentParser(prog="make secrets", description=__doc__)
    parser.add_argument("--path", type=Path, default=DEFAULT_PATH, help="the folder for them")
    path = parser.parse_args().path
    try:
        made = make_secrets(path)
    except CannotMake as error:
        print(f"make secrets: {error}", file=sys.stderr)
        return 1
    print(f"made in {path}: {', '.join(made)}" if made else f"all secrets are in {path} already")
    return 0


if __name__ == "__main__":
    sys.exit(main())
