"""The schema's version: migrations upgrade it, and every server process checks it."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from service.errors import DatabaseUnavailable
from service.storage.database import Database

_MIGRATIONS = Path(__file__).parent / "migrations"


def upgrade(database: Database, *, revision: str = "head") -> None:
    """Runs the missing migrations: in one transaction on PostgreSQL, in one each on SQLite.

    Of several processes that upgrade a database at once, one migrates and the others wait.
    """
    config = _config()
    config.attributes["database"] = database
    _create_parent(database)
    database.check()
    command.upgrade(config, revision)


def downgrade(database: Database, *, revision: str) -> None:
    config = _config()
    config.attributes["database"] = database
    command.downgrade(config, revision)


def require_current(database: Database) -> None:
    """Raises DatabaseUnavailable, with the command to run, unless the schema is the newest."""
    newest = newest_revision()
    _create_parent(database)
    database.check()
    with database.engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current != newest:
        raise DatabaseUnavailable(
            f"the database schema is {current or 'empty'}, this version needs {newest}: "
            "run `resnetd-server migrate`"
        )


def newest_revision() -> str:
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    assert newest is not None, "there is a migration"
    return newest


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def _create_parent(database: Database) -> None:
    """SQLite creates the file but not its directory."""
    if database.is_sqlite and database.engine.url.database:
        parent = Path(database.engine.url.database).parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseUnavailable(
                f"RESNETD_DATABASE_URL, by default in RESNETD_VAR_DIR: the directory {parent} "
                f"cannot be created: {error.strerror}"
            ) from error
