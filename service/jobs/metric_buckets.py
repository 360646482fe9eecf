"""Metrics summarized in buckets of iterations, so that long series are read in milliseconds.

A bucket covers a power of two of iterations and begins at a multiple of it: as a job grows, its
complete buckets do not change. Buckets are also stored, in levels: a bucket of level 1 covers
2 * `job.bucket_width` iterations, of each next level twice as many. A query reads the level of the
width that it needs, and for what is not complete there the levels below and points.

Points of iterations below `job.bucketed_iterations` are in the stored buckets. A later point of
such an iteration (a resumed attempt repeats some, an evaluation takes time) removes its buckets.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import (
    CompoundSelect,
    Row,
    Select,
    Table,
    bindparam,
    case,
    delete,
    insert,
    select,
    union_all,
)
from sqlalchemy.orm import Session

from service.storage.database import MANY_NUMBERS
from service.storage.tables import JobRow, MetricBucketRow, MetricRow

MAX_ITERATION = 2**31 - 1
# Points of a series that are read as such.
_MAX_UNBUCKETED_POINTS = 256


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


class _Range(NamedTuple):
    """Iterations from `begin` to before `end` of a level; level 0 are points."""

    level: int
    begin: int
    end: int


class _Bucket(NamedTuple):
    """A row of the table, without job and level."""

    series: str
    start: int
    num_values: int
    sum: float | None
    first: float | None
    min: float | None
    max: float | None
    last: float | None
    iteration: int
    seconds: float
    time: float


# A row with the fields of _Bucket. Of the thousands that a chart has, only a few become one.
_Row = Row[Any] | _Bucket
_START = itemgetter(_Bucket._fields.index("start"))


def choose_width(iterations: int, buckets: int) -> int:
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
    ranges: list[_Range] = []
    complete_end = -1
    for level, level_width in reversed(list(_list_levels(job, max_width=width))):
        end = min(stop, _floor_to(job.bucketed_iterations, level_width))
        if end > position:
            ranges.append(_Range(level, position, end))
            position = end
            if level_width == width:
                complete_end = end
    if stop > position:
        ranges.append(_Range(0, position, stop))
    found: dict[str, Buckets] = {}
    for name, rows in _read_ranges(session, job, series, ranges).items():
        complete = bisect_left(rows, complete_end, key=_START)
        merged = _merge(map(_Bucket._make, rows[complete:]), width)
        found[name] = _make_columns([*rows[:complete], *merged])
    return found


def _make_columns(rows: Sequence[_Row]) -> Buckets:
    _, starts, counts, sums, *others = map(list, zip(*rows, strict=True))
    means = [
        None if total is None else total / count for total, count in zip(sums, counts, strict=True)
    ]
    return Buckets(starts, counts, means, *others)


def _list_levels(job: JobRow, *, max_width: int) -> Iterator[tuple[int, int]]:
    """Stored levels of at most that many iterations a bucket, as (level, width), ascending."""
    level, width = 1, 2 * job.bucket_width
    while 0 < width <= max_width:
        yield level, width
        level, width = level + 1, 2 * width


def _floor_to(iterations: int, width: int) -> int:
    return iterations - iterations % width


def _store_until(session: Session, job: JobRow, newest: int) -> None:
    if job.bucket_width == 0:
        # So that a bucket of level 1 holds about two points.
        spacing = max(1, newest // (job.unbucketed_points - 1))
        job.bucket_width = 1 << (spacing.bit_length() - 1)
    before, after = job.bucketed_iterations, _floor_to(newest, job.bucket_width)
    series = list(job.latest_metrics)
    for level, width in _list_levels(job, max_width=after):
        start, stop = _floor_to(before, width), _floor_to(after, width)
        if start == stop:
            break
        finer = _read_ranges(session, job, series, [_Range(level - 1, start, stop)])
        new = [
            bucket._asdict() | {"job_id": job.id, "level": level}
            for rows in finer.values()
            for bucket in _merge(map(_Bucket._make, rows), width)
        ]
        if new:
            session.execute(insert(_buckets), new)
    job.bucketed_iterations = after
    job.unbucketed_points = 0


def _remove_from(session: Session, job: JobRow, iteration: int) -> None:
    """Removes the buckets that contain the iteration or a later one."""
    remaining = _floor_to(iteration, job.bucket_width)
    for level, width in _list_levels(job, max_width=job.bucketed_iterations):
        session.execute(
            delete(MetricBucketRow).where(
                MetricBucketRow.job_id == job.id,
                MetricBucketRow.series.in_(list(job.latest_metrics)),
                MetricBucketRow.level == level,
                MetricBucketRow.start >= _floor_to(remaining, width),
            )
        )
    job.bucketed_iterations = remaining
    job.unbucketed_points = _MAX_UNBUCKETED_POINTS


def _table_of(row_type: type[MetricRow | MetricBucketRow]) -> Table:
    table = row_type.__table__
    assert isinstance(table, Table)
    return table


_points, _buckets = _table_of(MetricRow), _table_of(MetricBucketRow)


@cache
def _select_ranges(levels: int, *, has_points: bool) -> Select[Any] | CompoundSelect[Any]:
    """Ranges of that number of levels, and of points: each range is one scan of a primary key.

    One statement for a job: a chart of 20 jobs would execute 200 otherwise.
    """
    parts: list[Select[Any]] = [
        select(*(_buckets.c[name] for name in _Bucket._fields)).where(
            _buckets.c.job_id == bindparam("job_id"),
            _buckets.c.series.in_(bindparam("names", expanding=True)),
            _buckets.c.level == bindparam(f"level_{index}"),
            _buckets.c.start >= bindparam(f"begin_{index}"),
            _buckets.c.start < bindparam(f"end_{index}"),
        )
        for index in range(levels)
    ]
    if has_points:
        value, iteration = _points.c.value, _points.c.iteration
        parts.append(
            select(
                _points.c.series,
                iteration.label("start"),
                case((value.is_(None), 0), else_=1).label("num_values"),
                *(value.label(name) for name in ("sum", "first", "min", "max", "last")),
                iteration.label("iteration"),
                _points.c.seconds,
                _points.c.time,
            ).where(
                _points.c.job_id == bindparam("job_id"),
                _points.c.series.in_(bindparam("names", expanding=True)),
                iteration >= bindparam(f"begin_{levels}"),
                iteration < bindparam(f"end_{levels}"),
            )
        )
    statement = parts[0] if len(parts) == 1 else union_all(*parts)
    return statement.execution_options(**{MANY_NUMBERS: True})


def _read_ranges(
    session: Session, job: JobRow, series: Sequence[str], ranges: Sequence[_Range]
) -> dict[str, list[_Row]]:
    """Rows of the ranges by series, ascending; a point is a bucket. A range of points is last."""
    if not ranges:
        return {}
    params: dict[str, Any] = {"job_id": job.id, "names": series}
    for index, (level, begin, end) in enumerate(ranges):
        params |= {f"begin_{index}": begin, f"end_{index}": end}
        if level > 0:
            params[f"level_{index}"] = level
    levels = sum(level > 0 for level, *_ in ranges)
    statement = _select_ranges(levels, has_points=levels < len(ranges))
    by_series: dict[str, list[_Row]] = {}
    for row in session.connection().execute(statement, params).all():
        by_series.setdefault(row[0], []).append(row)
    for rows in by_series.values():
        rows.sort(key=_START)
    return by_series


def _merge(buckets: Iterable[_Bucket], width: int) -> list[_Bucket]:
    """Buckets of `width` iterations of those of one series, in their order."""
    return [
        _merge_members(list(members), start)
        for start, members in groupby(
            buckets, key=lambda bucket: bucket.start - bucket.start % width
        )
    ]


def _merge_members(members: Sequence[_Bucket], start: int) -> _Bucket:
    last = members[-1]
    if len(members) == 1:
        return last._replace(start=start)
    finite = [member for member in members if member.num_values > 0]
    if not finite:
        return last._replace(start=start)
    return _Bucket(
        last.series,
        start,
        sum(member.num_values for member in finite),
        sum(member.sum or 0.0 for member in finite),
        finite[0].first,
        min(member.min for member in finite if member.min is not None),
        max(member.max for member in finite if member.max is not None),
        finite[-1].last,
        # A clock that went back does not turn the curve back.
        last.iteration,
        max(member.seconds for member in members),
        max(member.time for member in members),
    )
