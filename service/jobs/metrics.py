"""Metrics: append points exactly once, read a thinned series."""

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
    """Where an earlier attempt wrote the same iteration, the later one's value stands."""
    if not points:
        return
    # Of an iteration that is told twice in one report, the last counts.
    told = {(point.series, point.iteration): point.value for point in points}
    insert = _insert_rows if session.get_bind().dialect.name == "sqlite" else _insert_arrays
    insert(session, job.id, attempt.number, told)
    newest = dict(job.latest_metrics)
    for point in sorted(points, key=lambda point: point.iteration):
        newest[point.series] = point.value
    job.latest_metrics = newest


def _insert_rows(session: Session, job_id: str, attempt: int, told: _Points) -> None:
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
        for (series, iteration), value in told.items()
    ]
    session.execute(statement, rows)


def _insert_arrays(session: Session, job_id: str, attempt: int, told: _Points) -> None:
    """All points as three parameters: each row by itself would take several times as long."""
    unnested = func.unnest(
        literal([series for series, _ in told], ARRAY(Text)),
        literal([iteration for _, iteration in told], ARRAY(Integer)),
        literal(list(told.values()), ARRAY(Double)),
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
    """All series, or those named. With `points`, each is thinned to at most so many."""
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
    """At most `points` of the series' own points, evenly spread, the first and last among them."""
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
