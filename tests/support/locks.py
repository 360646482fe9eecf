"""Waits until a transaction waits for a lock, so that a test of a race has one order."""

from sqlalchemy import text

from service.storage.database import Database
from tests.support.fake_api import eventually


def wait_for_blocked_transaction(database: Database) -> None:
    """Returns once a transaction of a PostgreSQL database waits for a lock."""
    engine = database.engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        eventually(
            lambda: connection.scalar(
                text(
                    "SELECT count(*) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
            )
        )
