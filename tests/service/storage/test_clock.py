"""The database's clock: hosts whose own clocks differ agree on the time."""

from datetime import UTC, datetime, timedelta

import pytest

from service.storage.clock import DatabaseClock
from service.storage.database import Database


@pytest.mark.parametrize("error", [timedelta(minutes=2), timedelta(hours=-1)])
def test_a_host_whose_clock_is_wrong_has_the_time_of_the_database(
    database: Database, error: timedelta
) -> None:
    if database.is_sqlite:
        pytest.skip("all processes run on the host of the file")
    right = DatabaseClock(database)
    wrong = DatabaseClock(database, local=lambda: datetime.now(UTC) + error)
    assert abs(wrong() - right()) < timedelta(seconds=5)


def test_on_sqlite_the_clock_is_that_of_the_host(database: Database) -> None:
    if not database.is_sqlite:
        pytest.skip("PostgreSQL has its own clock")
    at = datetime(2026, 11, 21, tzinfo=UTC)
    assert DatabaseClock(database, local=lambda: at)() == at
