"""Migrations: up, down, up; they make what the tables say; an old schema is told the command."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect

from service import schema
from service.database import Database
from service.errors import DatabaseUnavailable
from service.tables import Base


def _tables(database: Database) -> set[str]:
    return set(inspect(database.engine).get_table_names()) - {"alembic_version"}


def test_migrations_make_exactly_what_the_tables_say(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_go_up_down_and_up_again(database: Database) -> None:
    schema.downgrade(database, revision="base")
    assert _tables(database) == set()
    schema.upgrade(database)
    assert _tables(database) == set(Base.metadata.tables)


def test_a_repeated_upgrade_changes_nothing(database: Database) -> None:
    schema.upgrade(database)
    schema.require_current(database)


def test_an_empty_database_is_told_the_command_that_helps(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(DatabaseUnavailable, match=r"is empty, .* run `resnetd-server migrate`"):
        schema.require_current(database)
    database.close()


def test_the_folder_of_a_sqlite_file_is_made(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/new/folder/resnetd.db")
    schema.upgrade(database)
    schema.require_current(database)
    database.close()
