"""Metrics summarised in buckets of iterations, so that long series are read in milliseconds.

A bucket covers a power of two of iterations and begins at a multiple of it: as a job grows, its
complete buckets do not change. Buckets are also stored, in levels: a bucket of level 1 covers
4 * `job.bucket_width` iterations, of each next level four times as many. A query reads the level
just below the width that it needs, the levels below for what is not complete there, and points.

Points of iterations below `job.bucketed_iterations` are in the stored buckets. A later point of
such an iteration (a resumed attempt repeats some, an evaluation takes time) removes its buckets.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, case, delete, func, insert, literal, select, union_all
from sqlalchemy.orm import Session

from service.storage.tables import JobRow, MetricBucketRow, MetricRow

MAX_ITERATION = 2**31 - 1
_FACTOR = 4
# Points of a series that are read as such; a run of the usual length has fewer.
_MAX_UNBUCKETED_POINTS = 1024
_COLUMNS = ("series", "start", "count", "sum", "first", "min", "max", "last")
_OF_LAST_POINT = ("iteration", "seconds", "time")


@dataclass(frozen=True)
class Buckets:
    """Buckets of one series by ascending start; those without points are left out.

    `count`, `mean`, `first`, `min`, `max` and `last` are over the finite values, None without one.
    `iteration`, `seconds` (of training) and `time` (since 1970) are those of the last point.
    """

    start: list[int]
    count: list[int]
    mean: list[float | None]
    first: list[float | None]
    min: list[float | None]
    max: list[float | None]
    last: list[float | None]
    iteration: list[int]
    seconds: list[float]
    time: list[float]


def width_for(iterations: int, buckets: int) -> int:
    """The smallest power of two with which at most `buckets` buckets cover as many iterations."""
    needed = max(1, -(-iterations // buckets))
    return 1 << (needed - 1).bit_length()


def update(session: Session, job: JobRow, points: Sequence[tuple[str, int]]) -> None:
    """Follows new points of the locked job, given by series and iteration, in the stored buckets.

    Their insertion must have been executed.
    """
    iterations = [iteration for _, iteration in points]
    if min(iterations) < job.bucketed_iterations:
        _remove_from(session, job, min(iterations))
    counts: dict[str, int] = {}
    for series, _ in points:
        counts[series] = counts.get(series, 0) + 1
    job.unbucketed_points += max(counts.values())
    if job.unbucketed_points >= _MAX_UNBUCKETED_POINTS:
        _store_until(session, job, max(iterations))


def read(
    session: Session, job: JobRow, *, series: Sequence[str], start: int, stop: int, width: int
) -> dict[str, Buckets]:
    """Buckets of `width` iterations, a power of two, that begin in [start, stop).

    The first begins at the multiple of `width` below `start`.
    """
    position = start - start % width
    stop = min(stop + -stop % width, MAX_ITERATION)
    sources: list[Select[Any]] = []
    for level, level_width in reversed(list(_levels(job, max_width=width))):
        end = min(stop, _complete(job.bucketed_iterations, level_width))
        if end > position:
            sources.append(_select_level(job.id, series, level, position, end))
            position = end
    if stop > position:
        sources.append(_select_points(job.id, series, position, stop))
    grouped = _group(sources, width).subquery()
    columns = [grouped.c[name] for name in (*_COLUMNS, *_OF_LAST_POINT)]
    rows = session.execute(select(*columns).order_by(grouped.c.series, grouped.c.start))
    found: dict[str, Buckets] = {}
    by_series: dict[str, list[Any]] = {}
    for row in rows:
        by_series.setdefault(row[0], []).append(row)
    for name, members in by_series.items():
        _, starts, counts, sums, *others = map(list, zip(*members, strict=True))
        means = [
            None if total is None else total / count
            for total, count in zip(sums, counts, strict=True)
        ]
        found[name] = Buckets(starts, counts, means, *others)
    return found


def _levels(job: JobRow, *, max_width: int) -> Iterator[tuple[int, int]]:
    """Stored levels of at most that many iterations a bucket, as (level, width), ascending."""
    level, width = 1, _FACTOR * job.bucket_width
    while 0 < width <= max_width:
        yield level, width
        level, width = level + 1, _FACTOR * width


def _complete(iterations: int, width: int) -> int:
    return iterations - iterations % width


def _store_until(session: Session, job: JobRow, newest: int) -> None:
    if job.bucket_width == 0:
        # So that a bucket of level 1 holds about four points.
        spacing = max(1, newest // job.unbucketed_points)
        job.bucket_width = 1 << (spacing.bit_length() - 1)
    before, after = job.bucketed_iterations, _complete(newest, job.bucket_width)
    series = list(job.latest_metrics)
    for level, width in _levels(job, max_width=after):
        start, stop = _complete(before, width), _complete(after, width)
        if start == stop:
            break
        source = (
            _select_points(job.id, series, start, stop)
            if level == 1
            else _select_level(job.id, series, level - 1, start, stop)
        )
        grouped = _group([source], width).subquery()
        names = (*_COLUMNS, *_OF_LAST_POINT)
        session.execute(
            insert(MetricBucketRow).from_select(
                ["job_id", "level", *names],
                select(literal(job.id), literal(level), *(grouped.c[name] for name in names)),
            )
        )
    job.bucketed_iterations = after
    job.unbucketed_points = 0


def _remove_from(session: Session, job: JobRow, iteration: int) -> None:
    """Removes the buckets that contain the iteration or a later one."""
    remaining = _complete(iteration, job.bucket_width)
    for level, width in _levels(job, max_width=job.bucketed_iterations):
        session.execute(
            delete(MetricBucketRow).where(
                MetricBucketRow.job_id == job.id,
                MetricBucketRow.series.in_(list(job.latest_metrics)),
                MetricBucketRow.level == level,
                MetricBucketRow.start >= _complete(remaining, width),
            )
        )
    job.bucketed_iterations = remaining
    job.unbucketed_points = _MAX_UNBUCKETED_POINTS


def _select_level(
    job_id: str, series: Sequence[str], level: int, start: int, stop: int
) -> Select[Any]:
    row = MetricBucketRow
    return select(*(getattr(row, name) for name in (*_COLUMNS, *_OF_LAST_POINT))).where(
        row.job_id == job_id,
        row.series.in_(series),
        row.level == level,
        row.start >= start,
        row.start < stop,
    )


def _select_points(job_id: str, series: Sequence[str], start: int, stop: int) -> Select[Any]:
    """Points, as buckets of one iteration."""
    row, value = MetricRow, MetricRow.value
    return select(
        row.series,
        row.iteration.label("start"),
        case((value.is_(None), 0), else_=1).label("count"),
        value.label("sum"),
        value.label("first"),
        value.label("min"),
        value.label("max"),
        value.label("last"),
        row.iteration,
        row.seconds,
        row.time,
    ).where(
        row.job_id == job_id,
        row.series.in_(series),
        row.iteration >= start,
        row.iteration < stop,
    )


def _group(sources: Sequence[Select[Any]], width: int) -> Select[Any]:
    """Merges the buckets of the sources into those of `width` iterations."""
    rows = (union_all(*sources) if len(sources) > 1 else sources[0]).subquery()
    start = rows.c.start - rows.c.start % width

    def at_end(name: str, order: ColumnElement[Any]) -> ColumnElement[Any]:
        # A bucket of values that are not finite comes after all others.
        return func.first_value(rows.c[name]).over(
            partition_by=[rows.c.series, start], order_by=[rows.c.count == 0, order]
        )

    ranked = select(
        rows,
        start.label("bucket_start"),
        at_end("first", rows.c.start).label("bucket_first"),
        at_end("last", rows.c.start.desc()).label("bucket_last"),
    ).subquery()
    return select(
        ranked.c.series,
        ranked.c.bucket_start.label("start"),
        func.sum(ranked.c.count).label("count"),
        func.sum(ranked.c.sum).label("sum"),
        func.min(ranked.c.bucket_first).label("first"),
        func.min(ranked.c.min).label("min"),
        func.max(ranked.c.max).label("max"),
        func.min(ranked.c.bucket_last).label("last"),
        # The last point has the highest of each.
        *(func.max(ranked.c[name]).label(name) for name in _OF_LAST_POINT),
    ).group_by(ranked.c.series, ranked.c.bucket_start)
