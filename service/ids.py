"""Row ids: 16 characters that sort by creation time."""

import secrets
from datetime import UTC, datetime

# Crockford's base 32 has no i, l, o or u, which are easily misread.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_BITS_PER_CHARACTER = 5
_TIME_CHARACTERS, _RANDOM_CHARACTERS = 11, 5
_LENGTH = _TIME_CHARACTERS + _RANDOM_CHARACTERS
_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)


def new_id(now: datetime) -> str:
    """An id of 55 bits of microseconds since 2020 and 25 random bits.

    Ids sort by time, so they break ties in the queue and serve as cursors of pages. They are not
    a sequence: a new database must not reuse an id that the Ray cluster already knows.
    """
    microseconds = int((now - _EPOCH).total_seconds() * 1_000_000)
    random = secrets.randbits(_BITS_PER_CHARACTER * _RANDOM_CHARACTERS)
    return _encode(microseconds, _TIME_CHARACTERS) + _encode(random, _RANDOM_CHARACTERS)


def is_id(text: str) -> bool:
    """Whether the text can be an id or its prefix; if not, no query is needed."""
    return 0 < len(text) <= _LENGTH and all(character in _ALPHABET for character in text)


def _encode(value: int, length: int) -> str:
    characters = []
    for _ in range(length):
        value, remainder = divmod(value, 2**_BITS_PER_CHARACTER)
        characters.append(_ALPHABET[remainder])
    return "".join(reversed(characters))
