"""Metrics of a job: series of points by iteration, of which the newest attempt's counts."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ARRAY, Double, Integer, Text, func, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from service.specs.protocol import MetricPoint
from service.storage.tables import AttemptRow, JobRow, MetricRow

_KEY = (MetricRow.job_id, MetricRow.series, MetricRow.iteration)
_Points = dict[tuple[str, int], float | None]


@dataclass(frozen=True)
class Series:
    """Points by ascending iteration; a value is None where it was not finite."""

    iterations: list[int]
    values: list[float | None]


def append_points(
    session: Session, job: JobRow, attempt: AttemptRow, points: Sequence[MetricPoint]
) -> None:
    """A point replaces that of an earlier attempt, or of this one, at the same iteration."""
    if not points:
        return
    values = {(point.series, point.iteration): point.value for point in points}
    insert = _insert_rows if session.get_bind().dialect.name == "sqlite" else _insert_arrays
    insert(session, job.id, attempt.number, values)
    newest = dict(job.latest_metrics)
    for point in sorted(points, key=lambda point: point.iteration):
        newest[point.series] = point.value
    job.latest_metrics = newest


def _insert_rows(session: Session, job_id: str, attempt: int, values: _Points) -> None:
    statement = sqlite.insert(MetricRow)
    statement = statement.on_conflict_do_update(
        index_elements=_KEY,
        set_={"value": statement.excluded.value, "attempt": statement.excluded.attempt},
        where=MetricRow.attempt <= statement.excluded.attempt,
    )
    rows = [
        {
            "job_id": job_id,
            "series": series,
            "iteration": iteration,
            "attempt": attempt,
            "value": value,
        }
        for (series, iteration), value in values.items()
    ]
    session.execute(statement, rows)


def _insert_arrays(session: Session, job_id: str, attempt: int, values: _Points) -> None:
    """Sends all points as three arrays: several times faster than a statement for each row."""
    unnested = func.unnest(
        literal([series for series, _ in values], ARRAY(Text)),
        literal([iteration for _, iteration in values], ARRAY(Integer)),
        literal(list(values.values()), ARRAY(Double)),
    ).table_valued("series", "iteration", "value")
    columns = unnested.render_derived().c
    statement = postgresql.insert(MetricRow).from_select(
        ["job_id", "series", "iteration", "attempt", "value"],
        select(literal(job_id), columns.series, columns.iteration, literal(attempt), columns.value),
    )
    session.execute(
        statement.on_conflict_do_update(
            index_elements=_KEY,
            set_={"value": statement.excluded.value, "attempt": statement.excluded.attempt},
            where=MetricRow.attempt <= statement.excluded.attempt,
        )
    )


def read_series(
    session: Session, job_id: str, *, names: Sequence[str] = (), points: int | None = None
) -> dict[str, Series]:
    """All series, or those named; downsampled to at most `points` points each."""
    statement = (
        select(MetricRow.series, MetricRow.iteration, MetricRow.value)
        .where(MetricRow.job_id == job_id)
        .order_by(MetricRow.series, MetricRow.iteration)
    )
    if names:
        statement = statement.where(MetricRow.series.in_(names))
    found: dict[str, Series] = {}
    for name, iteration, value in session.execute(statement):
        series = found.setdefault(name, Series(iterations=[], values=[]))
        series.iterations.append(iteration)
        series.values.append(value)
    if points is None:
        return found
    return {name: downsample(series, points) for name, series in found.items()}


def downsample(series: Series, points: int) -> Series:
    """At most `points` of the series' points, evenly spaced, with the first and the last."""
    count = len(series.iterations)
    if count <= points:
        return series
    if points == 1:
        return Series(iterations=series.iterations[-1:], values=series.values[-1:])
    picked = [round(index * (count - 1) / (points - 1)) for index in range(points)]
    return Series(
        iterations=[series.iterations[index] for index in picked],
        values=[series.values[index] for index in picked],
    )
