"""English for messages: counted nouns and the verbs that agree with them; text for storage."""


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


def sanitize_text(text: str) -> str:
    """Replaces NUL and lone surrogates, which PostgreSQL refuses and a program may print."""
    encodable = text.encode("utf-8", "replace").decode()
    return encodable.replace("\x00", "\N{REPLACEMENT CHARACTER}")
