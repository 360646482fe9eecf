"""The schema's version: migrations upgrade it, and every server process checks it.

A revision is named `0003_for_0002`: the third schema, with which code from the second on can run.
So a process finds out whether a schema that is newer than its code was made for it, too.
"""

import re
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from service.errors import DatabaseUnavailable
from service.storage.database import Database

_MIGRATIONS = Path(__file__).parent / "migrations"
_REVISION = re.compile(r"(\d{4})(?:_for_(\d{4}))?")


def upgrade(database: Database, *, revision: str = "head") -> None:
    """Runs the missing migrations: in one transaction on PostgreSQL, in one each on SQLite.

    Of several processes that upgrade a database at once, one migrates and the others wait. A newer
    schema stays as it is if this code can run with it.
    """
    config = _config()
    config.attributes["database"] = database
    current = _find_current(database)
    if current is not None and _number(current) > _number(newest_revision()):
        require_compatible(database)
        return
    command.upgrade(config, revision)


def downgrade(database: Database, *, revision: str) -> None:
    config = _config()
    config.attributes["database"] = database
    command.downgrade(config, revision)


def require_compatible(database: Database) -> None:
    """Raises DatabaseUnavailable, with what to do, unless this code can run with the schema."""
    newest, current = newest_revision(), _find_current(database)
    if current is None or _number(current) < _number(newest):
        raise DatabaseUnavailable(
            f"the database schema is {current or 'empty'}, this version needs {newest}: "
            "run `resnetd-server migrate`"
        )
    if _number(newest) < _oldest_code(current):
        raise DatabaseUnavailable(
            f"the database schema is {current}, this version needs {newest}: "
            "install the version that upgraded the database, or a newer one"
        )


def require_current(database: Database) -> None:
    """As `require_compatible`, for what needs all tables and columns."""
    require_compatible(database)
    newest, current = newest_revision(), _find_current(database)
    if current != newest:
        raise DatabaseUnavailable(
            f"the database schema is {current}, newer than this version, which knows {newest}: "
            "use the version that upgraded the database"
        )


def name_next_revision(revision: str | None) -> str:
    """For a migration after this one, beside which the code of this one runs."""
    number = 0 if revision is None else _number(revision)
    return f"{number + 1:04}_for_{number:04}"


def newest_revision() -> str:
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    assert newest is not None, "there is a migration"
    return newest


def _find_current(database: Database) -> str | None:
    _create_parent(database)
    database.check()
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _number(revision: str) -> int:
    return int(_match(revision)[1])


def _oldest_code(revision: str) -> int:
    return int(_match(revision)[2] or _number(revision))


def _match(revision: str) -> re.Match[str]:
    match = _REVISION.fullmatch(revision)
    if match is None:
        raise DatabaseUnavailable(f"the database schema is {revision!r}, which is not one of ours")
    return match


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
