"""Which code trains: jobs that other code has trained are not repeated runs of the same."""

import hashlib
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
