"""Copies a finished job with all its rows, in the database, for databases of many jobs."""

from sqlalchemy import Table, select, text

from service.states import JobState
from service.storage.database import Database
from service.storage.tables import Base, JobRow

_BATCH = 50_000
_TABLES = ("jobs", "attempts", "metrics", "job_events", "log_lines", "job_tags")


def copy_job(database: Database, number: int) -> None:
    """`number` copies of the newest job that succeeded, with numbers as ids and the same times."""
    with database.reading() as session:
        statement = select(JobRow.id).where(JobRow.state == JobState.SUCCEEDED)
        job_id = session.scalars(statement.order_by(JobRow.id.desc())).first()
    copied = "printf('%016d', n)" if database.is_sqlite else "lpad(n::text, 16, '0')"
    for first in range(1, number + 1, _BATCH):
        bounds = {"job_id": job_id, "first": first, "last": min(number, first + _BATCH - 1)}
        for name in _TABLES:
            with database.transaction() as session:
                session.execute(text(_make_insert(Base.metadata.tables[name], copied)), bounds)
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))


def _make_insert(table: Table, copied: str) -> str:
    replaced = {"id": copied} if table.name == "jobs" else {"job_id": copied}
    if table.name == "attempts":
        replaced["id"] = f"{copied} || '-a1'"
    names = [column.name for column in table.columns]
    columns = ", ".join(f'"{name}"' for name in names)
    values = ", ".join(replaced.get(name, f'"{name}"') for name in names)
    key = "id" if table.name == "jobs" else "job_id"
    return (
        f'INSERT INTO "{table.name}" ({columns}) WITH RECURSIVE numbers(n) AS '  # noqa: S608
        "(SELECT CAST(:first AS INTEGER) UNION ALL SELECT n + 1 FROM numbers WHERE n < :last) "
        f'SELECT {values} FROM "{table.name}", numbers WHERE {key} = :job_id'
    )
