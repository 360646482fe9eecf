"""Metrics: append points exactly once, read a thinned series."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from service.reports import MetricPoint
from service.tables import AttemptRow, JobRow, MetricRow


@dataclass(frozen=True)
class Series:
    """Points by ascending iteration; a value is None where it was not finite."""

    iterations: list[int]
    values: list[float | None]


def append(
    session: Session, job: JobRow, attempt: AttemptRow, points: Sequence[MetricPoint]
) -> None:
    """Where an earlier attempt wrote the same iteration, the later one's value stands."""
    if not points:
        return
    rows = {
        (point.series, point.iteration): {
            "job_id": job.id,
            "series": point.series,
            "iteration": point.iteration,
            "attempt": attempt.number,
            "value": point.value,
        }
        for point in points
    }
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    statement = dialect.insert(MetricRow)
    statement = statement.on_conflict_do_update(
        index_elements=[MetricRow.job_id, MetricRow.series, MetricRow.iteration],
        set_={"value": statement.excluded.value, "attempt": statement.excluded.attempt},
        where=MetricRow.attempt <= statement.excluded.attempt,
    )
    session.execute(statement, list(rows.values()))
    newest = dict(job.newest_metrics)
    for point in sorted(points, key=lambda point: point.iteration):
        newest[point.series] = point.value
    job.newest_metrics = newest


def read(
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
    return {name: thinned(series, points) for name, series in found.items()}


def thinned(series: Series, points: int) -> Series:
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
