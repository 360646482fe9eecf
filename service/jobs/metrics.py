"""Metrics of a job: series of points by iteration, of which the newest attempt's counts."""

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy import ARRAY, func, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from service.jobs import metric_buckets
from service.specs.protocol import MetricPoint
from service.specs.series import is_diagnostic
from service.storage.tables import AttemptRow, JobRow, MetricRow

_KEY = (MetricRow.job_id, MetricRow.series, MetricRow.iteration)
_CSV_HEADER = ("series", "iteration", "value", "seconds", "time")
# Rows that are in memory at a time.
_ROWS_PER_READ = 10_000


@dataclass(frozen=True)
class Series:
    """Points by ascending iteration; a value is None where it was not finite.

    `seconds`: training time of the run until then; `times`: since 1970, in seconds.
    """

    iterations: list[int]
    values: list[float | None]
    seconds: list[float]
    times: list[float]


def append_points(
    session: Session, job: JobRow, attempt: AttemptRow, points: Sequence[MetricPoint]
) -> None:
    """A point replaces that of an earlier attempt, or of this one, at the same iteration."""
    if not points:
        return
    newest_of_key = {(point.series, point.iteration): point for point in points}
    rows = [
        {
            "job_id": job.id,
            "series": point.series,
            "iteration": point.iteration,
            "attempt": attempt.number,
            "value": point.value,
            "seconds": point.seconds,
            "time": point.at.timestamp(),
        }
        for point in newest_of_key.values()
    ]
    if session.get_bind().dialect.name == "sqlite":
        session.execute(_replace_older(sqlite.insert(MetricRow)), rows)
    else:
        _insert_arrays(session, rows)
    newest = dict(job.latest_metrics)
    for point in sorted(points, key=lambda point: point.iteration):
        newest[point.series] = point.value
    job.latest_metrics = newest
    trained = [point.iteration for point in points if not is_diagnostic(point.series)]
    job.newest_iteration = max([job.newest_iteration, *trained])
    metric_buckets.update(session, job, list(newest_of_key))


def _replace_older(statement: Any) -> Any:
    replaced = ("attempt", "value", "seconds", "time")
    return statement.on_conflict_do_update(
        index_elements=_KEY,
        set_={name: statement.excluded[name] for name in replaced},
        where=MetricRow.attempt <= statement.excluded.attempt,
    )


def _insert_arrays(session: Session, rows: Sequence[dict[str, Any]]) -> None:
    """Sends all points as arrays: several times faster than a statement for each row."""
    names = list(rows[0])
    kinds = [ARRAY(MetricRow.__table__.c[name].type) for name in names]
    unnested = func.unnest(
        *(
            literal([row[name] for row in rows], kind)
            for name, kind in zip(names, kinds, strict=True)
        )
    ).table_valued(*names)
    columns = unnested.render_derived().c
    session.execute(
        _replace_older(
            postgresql.insert(MetricRow).from_select(
                names, select(*(columns[name] for name in names))
            )
        )
    )


def iterate_csv(session: Session, job: JobRow, *, names: Sequence[str] = ()) -> Iterator[str]:
    """A CSV file in parts: a header, and a line for each point, by series and iteration.

    Series are in the order of their names' characters, whatever the collation of the database. A
    value that is not finite is empty; floats have the fewest digits that determine them. Equal rows
    give equal text on each database.
    """
    yield _format_rows([_CSV_HEADER])
    for name in sorted(set(names) or job.latest_metrics):
        statement = (
            select(
                MetricRow.series,
                MetricRow.iteration,
                MetricRow.value,
                MetricRow.seconds,
                MetricRow.time,
            )
            .where(MetricRow.job_id == job.id, MetricRow.series == name)
            .order_by(MetricRow.iteration)
            .execution_options(yield_per=_ROWS_PER_READ)
        )
        for rows in session.execute(statement).partitions():
            yield _format_rows(rows)


def _format_rows(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def read_series(session: Session, job_id: str, *, names: Sequence[str] = ()) -> dict[str, Series]:
    """All series, or those named, with all of their points."""
    statement = (
        select(
            MetricRow.series,
            MetricRow.iteration,
            MetricRow.value,
            MetricRow.seconds,
            MetricRow.time,
        )
        .where(MetricRow.job_id == job_id)
        .order_by(MetricRow.series, MetricRow.iteration)
    )
    if names:
        statement = statement.where(MetricRow.series.in_(names))
    found: dict[str, Series] = {}
    for name, points in itertools.groupby(session.execute(statement), key=itemgetter(0)):
        _, iterations, values, seconds, times = map(list, zip(*points, strict=True))
        found[name] = Series(iterations, values, seconds, times)
    return found
