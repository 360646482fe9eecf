"""How long the service waits before it tries again what has failed."""

import hashlib
from datetime import timedelta

MAX_SECONDS = 60.0


def backoff(failures: int, *, key: str) -> timedelta:
    """Doubles with each failure, from one second up to a minute; shortened by up to a half.

    `key` decides by how much: of many that one fault has ended, not all come back at once.
    """
    seconds = min(MAX_SECONDS, 2.0 ** (failures - 1))
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) / 2**32
    return timedelta(seconds=seconds * (1.0 - share / 2))
