"""The wait before the next try."""

import pytest

from service.backoff import backoff


@pytest.mark.parametrize(
    ("failures", "longest"), [(1, 1.0), (2, 2.0), (5, 16.0), (7, 60.0), (50, 60.0)]
)
def test_the_wait_doubles_up_to_a_minute_less_at_most_a_half(failures: int, longest: float) -> None:
    for key in ("a", "b", "c"):
        assert longest / 2 <= backoff(failures, key=key).total_seconds() <= longest


def test_the_wait_differs_between_keys_and_not_between_calls() -> None:
    assert backoff(3, key="a") == backoff(3, key="a") != backoff(3, key="b")
