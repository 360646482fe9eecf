"""Ids sort by time and consist of characters that are not misread."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import ids

times = st.datetimes(
    datetime(2020, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
    datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@given(earlier=times, later=times)
def test_ids_sort_by_creation_time(earlier: datetime, later: datetime) -> None:
    if earlier > later:
        earlier, later = later, earlier
    assert ids.new_id(earlier) < ids.new_id(later) or later - earlier < timedelta(microseconds=2)


@given(now=times)
def test_a_new_id_has_sixteen_characters(now: datetime) -> None:
    new = ids.new_id(now)
    assert ids.is_id(new)
    assert len(new) == 16


def test_ids_of_the_same_moment_differ() -> None:
    now = datetime(2026, 11, 21, tzinfo=UTC)
    assert len({ids.new_id(now) for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "text", ["", "0" * 17, "ABC", "illo", "0e3k/../x", "0e3k\x00", "0e3k ", "٣", "\ud800"]
)
def test_other_text_is_not_an_id(text: str) -> None:
    assert not ids.is_id(text)
