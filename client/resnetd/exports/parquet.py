"""Writes `jobs.parquet`, with a row for each job, and `metrics.parquet`, with one for each point.

Both have the column `job_id`.
"""

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
from pyarrow import parquet

from resnetd.exports.forms import ExportedJob, flatten
from resnetd.models import TrainingResult

if TYPE_CHECKING:
    from resnetd.client import Client

_TIME = pa.timestamp("us", tz="UTC")
_METRICS = pa.schema(
    [
        ("job_id", pa.string()),
        ("series", pa.string()),
        ("iteration", pa.int64()),
        ("value", pa.float64()),  # null where it was not finite
        ("seconds", pa.float64()),
        ("time", _TIME),
    ]
)
# Of the other columns the values decide.
_TYPES: dict[str, pa.DataType] = {
    "created_at": _TIME,
    "started_at": _TIME,
    "finished_at": _TIME,
    "parameters": pa.int64(),
    "trial": pa.int64(),
    **{f"result.{name}": pa.float64() for name in TrainingResult.__struct_fields__},
}
_Row = Mapping[str, Any]


def write(_: "Client", jobs: Iterable[ExportedJob], target: str) -> None:
    folder = Path(target)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    with (
        _replacing(folder / "metrics.parquet") as path,
        parquet.ParquetWriter(path, _METRICS) as writer,
    ):
        for exported in jobs:
            rows.append(_describe(exported))
            writer.write_table(_tabulate_metrics(exported))
    with _replacing(folder / "jobs.parquet") as path:
        parquet.write_table(tabulate_jobs(rows), path)


def tabulate_jobs(rows: Sequence[_Row]) -> pa.Table:
    """A column for each name of a row; null where a row does not have it."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _make_column(name, [row.get(name) for row in rows]) for name in names})


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A new file, which replaces the one at `path` when it is complete."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _describe(exported: ExportedJob) -> _Row:
    job = exported.job
    result = job.result or TrainingResult()
    return {
        "job_id": job.id,
        "name": job.name,
        "kind": job.kind,
        "network": job.network,
        "state": job.state.value,
        "reason": None if job.reason is None else job.reason.value,
        "user": job.user,
        "note": job.note,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "attempts": job.attempts,
        "parameters": job.parameters,
        **asdict(exported.origin),
        **{f"result.{name}": value for name, value in msgspec.structs.asdict(result).items()},
        **dict(flatten(job.spec, "spec.")),
        **dict(flatten(job.environment, "environment.")),
    }


def _tabulate_metrics(exported: ExportedJob) -> pa.Table:
    columns = exported.metrics.columns()
    points = len(columns["series"])
    return pa.table({"job_id": [exported.job.id] * points} | columns, schema=_METRICS)


def _make_column(name: str, values: Sequence[Any]) -> pa.Array:
    """Lists, and values of several types, become text in JSON."""
    if name in _TYPES:
        return pa.array(values, _TYPES[name])
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return pa.array(values, pa.float64())
    if len(kinds) == 1 and kinds <= {bool, int, float, str, datetime}:
        return pa.array(values)
    return pa.array([_format_value(value) for value in values], pa.string())


def _format_value(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)
