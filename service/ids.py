"""Names for rows: short, and sorted by the time of their making."""

import secrets
from datetime import UTC, datetime

# Crockford's base 32: no I, L, O, U, so that an id read aloud or typed stays itself.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_TIME_LETTERS, _RANDOM_LETTERS = 11, 5
_LETTERS = _TIME_LETTERS + _RANDOM_LETTERS
_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)


def is_id(text: str) -> bool:
    """Whether a row could have that name; what could not is not worth a query."""
    return 0 < len(text) <= _LETTERS and all(letter in _ALPHABET for letter in text)


def new_id(now: datetime) -> str:
    """Sixteen letters: 55 bits of microseconds, then 25 random bits.

    Ids sort by time, so they serve as the queue's tie-breaker and as the key of pages. They are
    not numbered from one: a submission id must not come again when a database is made anew
    beside a Ray cluster that remembers the old one.
    """
    microseconds = int((now - _EPOCH).total_seconds() * 1_000_000)
    return _encode(microseconds, _TIME_LETTERS) + _encode(
        secrets.randbits(5 * _RANDOM_LETTERS), _RANDOM_LETTERS
    )


def _encode(value: int, length: int) -> str:
    letters = []
    for _ in range(length):
        value, remainder = divmod(value, 32)
        letters.append(_ALPHABET[remainder])
    return "".join(reversed(letters))
