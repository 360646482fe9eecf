"""Which code trains: jobs that other code has trained are not repeated runs of the same."""

import hashlib
import subprocess
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parents[2]
# What decides the weights of a run. The service, its API and the Ray integration do not.
_FOLDERS = ("workers/training", "service/catalog")


@cache
def training_code_sha256() -> str:
    """Of the training code of this installation, file by file."""
    digest = hashlib.sha256()
    for folder in _FOLDERS:
        for path in sorted((_ROOT / folder).rglob("*.py")):
            digest.update(path.relative_to(_ROOT).as_posix().encode() + b"\0")
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def find_commit() -> str | None:
    """Of the git checkout that this installation is; it ends with `-dirty` if files were changed.

    None where it is no checkout, as in an image, or where git is not installed.
    """
    if not (_ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(_ROOT), "describe"]
    options = ["--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        described = subprocess.run(  # noqa: S603 - a fixed command
            [*command, *options], capture_output=True, check=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
