"""Copies a finished job with all its rows, for databases of many jobs."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Table, insert, select

from service import ids
from service.states import JobState
from service.storage.database import Database
from service.storage.tables import Base, JobRow

_BATCH = 2_000
# Older jobs would be deleted with their logs by the retention of the service.
_DAYS = 20


def copy_job(database: Database, number: int, *, now: datetime) -> None:
    """`number` copies of the newest job that succeeded, with times over the last days."""
    with database.reading() as session:
        job_id = session.scalars(
            select(JobRow.id).where(JobRow.state == JobState.SUCCEEDED).order_by(JobRow.id.desc())
        ).first()
        assert job_id is not None
        templates = [
            (table, [dict(row) for row in session.execute(select(table).where(found)).mappings()])
            for table in Base.metadata.sorted_tables
            if (found := _find_rows(table, job_id)) is not None
        ]
        finished_at = session.scalar(select(JobRow.finished_at).where(JobRow.id == job_id))
    assert finished_at is not None
    for first in range(0, number, _BATCH):
        batch = range(first, min(first + _BATCH, number))
        shifts = {
            n: now - timedelta(days=_DAYS) * (number - n) / number - finished_at for n in batch
        }
        new_ids = {n: ids.new_id(finished_at + shifts[n]) for n in batch}
        with database.transaction() as session:
            for table, rows in templates:
                if rows:
                    copies = [
                        _copy(row, job_id, new_ids[n], shifts[n]) for n in batch for row in rows
                    ]
                    session.execute(insert(table), copies)


def _find_rows(table: Table, job_id: str) -> Any:
    """The condition of a job's rows; None for tables that have none."""
    if table.name == "jobs":
        return table.c.id == job_id
    if table.name in {"attempts", "metrics", "job_events", "log_lines", "checkpoints", "job_tags"}:
        return table.c.job_id == job_id
    return None


def _copy(row: dict[str, Any], job_id: str, new_id: str, shift: timedelta) -> dict[str, Any]:
    copied: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, datetime):
            copied[name] = value + shift
        elif isinstance(value, str) and value.startswith(job_id):
            copied[name] = new_id + value[len(job_id) :]
        elif name == "runner_id":
            copied[name] = None
        else:
            copied[name] = value
    return copied
