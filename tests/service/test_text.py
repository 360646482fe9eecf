import pytest

from service.text import count_of, format_duration, plural


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
