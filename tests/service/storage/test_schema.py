"""Migrations: up, down, up; they make what the tables say; an old schema is told the command."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import MetaData, inspect

from service.access import tokens
from service.errors import DatabaseUnavailable
from service.notifications import webhooks
from service.specs.protocol import LogLine, MetricPoint
from service.states import LogLevel
from service.storage import schema
from service.storage.database import Database
from service.storage.tables import Base
from tests.support.core import Core, job_id_of, note
from tests.support.searching import Searching


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


def test_what_is_in_the_database_survives_every_migration_down_and_up(
    database: Database, core: Core
) -> None:
    """Down one by one to the first, and up again: what the schemas have in common is kept."""
    _fill(core)
    before = lower = _content(database)
    for revision in _revisions():
        schema.downgrade(database, revision=revision)
        lower = _content(database)
        assert _common(lower, before) == _common(before, lower), f"down to {revision}"
    assert [name for name, rows in lower.items() if not rows] == [], "tables without a row"
    schema.upgrade(database)
    after = _content(database)
    assert _common(after, lower) == _common(before, lower)


Content = dict[str, list[dict[str, object]]]


def _revisions() -> list[str]:
    """The newest first."""
    script = ScriptDirectory(str(Path(schema.__file__).parent / "migrations"))
    return [revision.revision for revision in script.walk_revisions()]


def _content(database: Database) -> Content:
    """The rows of every table that there is now."""
    metadata = MetaData()
    metadata.reflect(database.engine)
    with database.reading() as session:
        return {
            name: [dict(row) for row in session.execute(table.select()).mappings()]
            for name, table in metadata.tables.items()
            if name != "alembic_version"
        }


def _common(content: Content, other: Content) -> dict[str, list[str]]:
    """The rows of tables, and of their columns, that the other has as well: 1.0 is 1 there."""
    return {
        name: sorted(
            repr({column: _plain(row[column]) for column in sorted(row.keys() & other[name][0])})
            for row in content[name]
        )
        for name in content.keys() & other.keys()
        if other[name]
    }


def _plain(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _fill(core: Core) -> None:
    """A row in each table."""
    with core.database.transaction() as session:
        tokens.set_token(session, tokens.new_secret(), name="ann", now=core.clock.now)
        webhooks.add_webhook(session, "https://example.org/", (), user="ann", now=core.clock.now)
    claimed = core.run(tags=["nightly"])
    point = MetricPoint(series="train/loss", iteration=20, value=1.5)
    line = LogLine(at=core.clock.now, level=LogLevel.INFO, message="said")
    core.report(claimed.attempt_id, 2, metrics=[point], logs=[line], checkpoints=[note(20)])
    core.submit(after=[job_id_of(claimed)])
    core.finish(claimed.attempt_id)
    searching = Searching(core)
    searching.take(searching.run(), "a")


def test_a_repeated_upgrade_changes_nothing(database: Database) -> None:
    schema.upgrade(database)
    schema.require_current(database)


def test_an_empty_database_is_told_the_command_that_helps(empty_database_url: str) -> None:
    database = Database(empty_database_url)
    with pytest.raises(DatabaseUnavailable, match=r"is empty, .* run `resnetd-server migrate`"):
        schema.require_current(database)
    database.close()


def test_the_folder_of_a_sqlite_file_is_made(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/new/folder/resnetd.db")
    schema.upgrade(database)
    schema.require_current(database)
    database.close()
