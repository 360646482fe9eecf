"""Alembic's environment: runs migrations on the engine of service.storage.database."""

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection

from service import settings
from service.storage import schema
from service.storage.database import Database, Lock, serialize
from service.storage.tables import Base, UtcDateTime


def render_item(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Replaces our column types: a migration must not change with the code."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    return False


def name_revision(_context: Any, revision: Any, directives: Any) -> None:
    """For `make migration`."""
    directives[0].rev_id = schema.name_next_revision(revision[0] if revision else None)


def run() -> None:
    database = context.config.attributes.get("database") or Database(
        settings.load().database_url.get_secret_value()
    )
    with database.engine.connect() as connection:
        if database.is_sqlite:
            # Batch mode recreates a table: dropping the old one would cascade to its references.
            _set_foreign_keys(connection, is_on=False)
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=database.is_sqlite,
            compare_type=False,
            render_item=render_item,
            process_revision_directives=name_revision,
        )
        with context.begin_transaction():
            if not database.is_sqlite:
                # A migration of a large table may take long, and so does waiting for another one.
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            serialize(connection, Lock.MIGRATE)
            context.run_migrations()
        if database.is_sqlite:
            connection.rollback()
            _set_foreign_keys(connection, is_on=True)


def _set_foreign_keys(connection: Connection, *, is_on: bool) -> None:
    """SQLite ignores the pragma inside a transaction."""
    assert not connection.in_transaction()
    cursor = connection.connection.cursor()
    cursor.execute(f"PRAGMA foreign_keys={'ON' if is_on else 'OFF'}")
    cursor.close()


run()
