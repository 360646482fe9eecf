import pytest

from resnetd import text as client_text
from service.text import count_of, format_bytes, format_duration, format_number, plural


@pytest.mark.parametrize(
    ("count", "noun", "expected"),
    [
        (0, "CPU", "0 CPUs"),
        (1, "CPU", "1 CPU"),
        (1.0, "GPU", "1 GPU"),
        (0.5, "GPU", "0.5 GPUs"),
        (2, "batch", "2 batches"),
        (2, "retry", "2 retries"),
        (2, "day", "2 days"),
        (3, "CPU process", "3 CPU processes"),
        (2_000_000, "file", "2,000,000 files"),
    ],
)
def test_a_count_and_its_noun_agree(count: float, noun: str, expected: str) -> None:
    assert count_of(count, noun) == expected


def test_an_irregular_noun_brings_its_plural() -> None:
    assert count_of(2, "worker of 4 CPUs", "workers of 4 CPUs") == "2 workers of 4 CPUs"


def test_a_verb_agrees_with_its_count() -> None:
    assert [f"{count_of(n, 'CPU')} {plural(n, 'is', 'are')} free" for n in (1, 2)] == [
        "1 CPU is free",
        "2 CPUs are free",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1 / 3600, "0.000278"),
        (2.5e-5, "0.000025"),
        (0.5, "0.5"),
        (9.999, "10"),
        (31.25, "31.2"),
        (999.6, "1,000"),
        (12_345.6, "12,346"),
    ],
)
def test_a_number_keeps_its_significant_digits_and_has_no_exponent(value: float, text: str) -> None:
    assert [format_number(value), client_text.format_number(value)] == [text, text]


def test_a_number_may_have_fewer_digits() -> None:
    shares = (100.0, 82.3, 6.25, 0.043)
    assert [format_number(share, digits=2) for share in shares] == ["100", "82", "6.2", "0.043"]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1, "1 byte"), (944_500, "944.5 kB"), (5 * 10**10, "50 GB")],
)
def test_a_size_is_in_its_largest_unit(count: int, text: str) -> None:
    assert [format_bytes(count), client_text.format_bytes(count)] == [text, text]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds"),
        (59.4, "59 seconds"),
        (60, "1 minute"),
        (5_400, "1.5 hours"),
        (86_400, "1 day"),
        (86_400 * 12.3, "12 days"),
        (86_400 * 1_234, "1,200 days"),
    ],
)
def test_a_duration_is_in_its_largest_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
