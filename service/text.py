"""English for messages: counted nouns and the verbs that agree with them; text for storage."""

import difflib
from collections.abc import Iterable

# Of a name, in characters: the comparison takes the square of its length.
_MAX_COMPARED = 100
# Of difflib's ratio, from 0 to 1: cifar-10 is cifar10, imagewoof is not imagenet.
_SIMILAR = 0.7


def plural(count: float, singular: str, plural_form: str | None = None) -> str:
    """The form of a word for `count` of them: `plural(2, "batch")` is "batches".

    A word that does not follow the rules of nouns brings its own plural:
    `plural(free, "is", "are")`.
    """
    if count == 1:
        return singular
    if plural_form is not None:
        return plural_form
    if singular.endswith(("s", "x", "ch", "sh")):
        return singular + "es"
    if singular.endswith("y") and singular[-2:-1] not in "aeiou":
        return singular[:-1] + "ies"
    return singular + "s"


def count_of(count: float, noun: str, plural_form: str | None = None) -> str:
    """A number and its noun: "1 CPU", "0.5 GPUs", "2,000 files"."""
    number = f"{int(count):,}" if count == int(count) else f"{count:,}"
    return f"{number} {plural(count, noun, plural_form)}"


def format_number(value: float, *, digits: int = 3) -> str:
    """With three significant digits, or all those before the point: "0", "0.00278", "1,234".

    For amounts of any size: the number of digits after the point follows the amount.
    """
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    # Never with an exponent.
    return f"{float(f'{value:.{digits}g}'):,.12f}".rstrip("0").rstrip(".")


def format_bytes(count: int) -> str:
    """As "512 bytes", "1.5 MB", "20 GB", in powers of 1,000."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return count_of(count, "byte")


def format_duration(seconds: float) -> str:
    """In its largest unit: "45 seconds", "1.5 hours", "12 days"."""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            value = float(f"{seconds / length:.2g}")
            return count_of(value, unit)
    return count_of(round(seconds), "second")


def format_nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: "; nearest: cifar10", or nothing."""
    nearest = difflib.get_close_matches(name[:_MAX_COMPARED], list(known), n=1, cutoff=_SIMILAR)
    return f"; nearest: {nearest[0]}" if nearest else ""


def sanitize_text(text: str) -> str:
    """Replaces NUL and lone surrogates, which PostgreSQL refuses and a program may print."""
    encodable = text.encode("utf-8", "replace").decode()
    return encodable.replace("\x00", "\N{REPLACEMENT CHARACTER}")
