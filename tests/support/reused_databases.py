"""Databases that serve one test after the other, each with the rows of a new one."""

import shutil
from pathlib import Path
from typing import Protocol

from sqlalchemy import text

from service.storage.database import Database
from service.storage.tables import Base


class ReusedDatabase(Protocol):
    database: Database

    def restore(self) -> None:
        """Gives it the rows that it had at first. The last test must hold no locks."""

    def close(self) -> None: ...


class ReusedSqlite:
    def __init__(self, migrated: Path) -> None:
        self._migrated = migrated
        self._path = migrated.with_name("reused.db")
        self.database = Database(f"sqlite:///{self._path}")

    def restore(self) -> None:
        # Writing into the file would wait for a connection that a test has left open.
        self.database.close()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(f"{self._path.name}{suffix}").unlink(missing_ok=True)
        shutil.copy(self._migrated, self._path)

    def close(self) -> None:
        self.database.close()


class ReusedPostgres:
    def __init__(self, url: str) -> None:
        self.database = Database(url)
        # One round trip; most tables are empty, and TRUNCATE would write files for each.
        self._deletes = "; ".join(f'DELETE FROM "{name}"' for name in Base.metadata.tables)

    def restore(self) -> None:
        with self.database.engine.begin() as connection:
            # Without triggers: the audit log permits no deletion.
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            connection.exec_driver_sql(self._deletes)
            connection.execute(
                text("SELECT setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S'")
            )

    def close(self) -> None:
        self.database.close()
