"""Copies all rows of one database to another, of either backend."""

from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    ColumnElement,
    Connection,
    RowMapping,
    Table,
    Text,
    bindparam,
    cast,
    insert,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB

from service.storage.tables import Base, ChangeRow

_ROWS_AT_ONCE = 5_000
# Its rows only wake processes that run.
_NOT_COPIED = {ChangeRow.__tablename__}


def list_tables() -> list[Table]:
    """Each after those that it refers to."""
    return [table for table in Base.metadata.sorted_tables if table.name not in _NOT_COPIED]


def copy_rows(source: Connection, target: Connection) -> dict[str, int]:
    """Copies to empty tables of the same schema. Returns the number of rows by table.

    `source` must see one snapshot. Memory does not grow with the number of rows.
    """
    copied = {}
    for table in list_tables():
        columns = list(table.columns)
        rows = source.execute(
            select(*[_read(column) for column in columns]),
            execution_options={"yield_per": _ROWS_AT_ONCE},
        )
        written = insert(table).values({column.name: _write(column, target) for column in columns})
        copied[table.name] = 0
        for chunk in rows.mappings().partitions():
            target.execute(written, [_name_values(row) for row in chunk])
            copied[table.name] += len(chunk)
    return copied


# Documents are copied as their text: decoding them would merge NULL with JSON's null.


def _read(column: Column[Any]) -> ColumnElement[Any]:
    return cast(column, Text).label(column.name) if isinstance(column.type, JSON) else column


def _write(column: Column[Any], target: Connection) -> ColumnElement[Any]:
    # The prefix keeps parameters apart from those that SQLAlchemy names after columns.
    name = f"value_{column.name}"
    if not isinstance(column.type, JSON):
        return bindparam(name, type_=column.type)
    text = bindparam(name, type_=Text)
    # SQLite stores documents as text; its CAST would make numbers of them.
    return text if target.dialect.name == "sqlite" else cast(text, JSONB)


def _name_values(row: RowMapping) -> dict[str, Any]:
    return {f"value_{name}": value for name, value in row.items()}
