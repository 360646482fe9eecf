"""Jobs that are alike in everything but some fields of their specs, and statistics over each group.

So a result is shown as a mean over seeds with its spread, and not as that of one seed.
"""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from sqlalchemy.orm import Session

from service.errors import invalid_parameter
from service.jobs import metric_buckets
from service.jobs.metric_axes import JobAxis, MetricAxis
from service.jobs.metric_buckets import Buckets
from service.jobs.training_key import UNTRAINED_FIELDS, flatten_spec
from service.specs.fields import list_field_types
from service.specs.job_spec import JobSpec
from service.storage.tables import JobRow

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class JobGroup:
    """`fields`: values of the fields in which the groups differ, by dotted path."""

    fields: dict[str, Any]
    jobs: list[JobRow]


@dataclass(frozen=True)
class SampleStatistics:
    """Of `n` finite values. `std`: of the sample; None, like the interval, with one value.

    `ci_low`, `ci_high`: 95 % confidence interval of the mean by Student's t distribution, which
    takes the values as independent and normally distributed.
    """

    n: int
    mean: float
    std: float | None
    ci_low: float | None
    ci_high: float | None
    min: float
    max: float


@dataclass(frozen=True)
class GroupSeries:
    """Columns of equal length, one row for each bucket that any job of the group has points in.

    `start`: first iteration of the bucket. `x`: mean position of the jobs' last points.
    `n` to `ci_high`: over the jobs' means of the bucket. `min`, `max`: over all points.
    """

    x: list[float]
    start: list[int]
    n: list[int]
    mean: list[float]
    std: list[float | None]
    ci_low: list[float | None]
    ci_high: list[float | None]
    min: list[float]
    max: list[float]


class GroupKey:
    """Which jobs are alike: `-FIELD` in all fields but these, `FIELD` in these, `id` in none.

    InvalidInput where a field is not one of the spec, or both kinds are given.
    """

    def __init__(self, by: Sequence[str]) -> None:
        excluded = [field[1:] for field in by if field.startswith("-")]
        only = [field for field in by if not field.startswith("-")]
        if excluded and only:
            raise invalid_parameter("/by", "must name either FIELDs or -FIELDs, not both")
        self._is_by_id = only == ["id"]
        self._only = [] if self._is_by_id else only
        self._excluded = {*UNTRAINED_FIELDS, *excluded}
        for field in (*excluded, *self._only):
            if not list_field_types(JobSpec, field):
                raise invalid_parameter("/by", f"jobs have no field {field!r} in their spec")

    def group(self, jobs: Iterable[JobRow]) -> list[JobGroup]:
        """In the order of each group's first job."""
        members: dict[str, list[JobRow]] = {}
        values: dict[str, dict[str, Any]] = {}
        for job in jobs:
            found = self._select(flatten_spec(job.spec))
            key = job.id if self._is_by_id else json.dumps(found, sort_keys=True)
            members.setdefault(key, []).append(job)
            values[key] = found
        differing = _differing_fields(list(values.values()))
        return [
            JobGroup({field: values[key].get(field) for field in differing}, group)
            for key, group in members.items()
        ]

    def _select(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        if self._only:
            return {field: value for field, value in spec.items() if _is_in(field, self._only)}
        return {field: value for field, value in spec.items() if not _is_in(field, self._excluded)}


def _is_in(path: str, fields: Iterable[str]) -> bool:
    """Whether the path is one of the fields or below it."""
    return any(path == field or path.startswith(f"{field}.") for field in fields)


def describe_values(values: Iterable[float | None]) -> SampleStatistics | None:
    """None without a finite value."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return None
    n, mean = len(finite), statistics.fmean(finite)
    std = statistics.stdev(finite, mean) if n > 1 else None
    margin = None if std is None else _t_quantile(n - 1) * std / math.sqrt(n)
    return SampleStatistics(
        n=n,
        mean=mean,
        std=std,
        ci_low=None if margin is None else mean - margin,
        ci_high=None if margin is None else mean + margin,
        min=min(finite),
        max=max(finite),
    )


def read_results(group: JobGroup) -> dict[str, SampleStatistics]:
    """Statistics of each value that finished jobs have as their result."""
    results = [job.result for job in group.jobs if job.result is not None]
    names = dict.fromkeys(name for result in results for name in result)
    described = {name: describe_values(result.get(name) for result in results) for name in names}
    return {name: found for name, found in described.items() if found is not None}


def read_series(
    session: Session,
    group: JobGroup,
    names: Sequence[str],
    *,
    axis: MetricAxis,
    start: float = 0,
    stop: float | None = None,
    buckets: int,
) -> dict[str, GroupSeries]:
    """Series over the jobs of a group. `start`, `stop`: in units of the axis, inclusive.

    InvalidInput where the unit of the axis is not known for one of the jobs.
    """
    if not names:
        return {}
    axes = [JobAxis(session, job, axis) for job in group.jobs]
    first = min(job_axis.find_iteration(start) for job_axis in axes)
    end = max(job.newest_iteration for job in group.jobs) + 1
    if stop is not None:
        end = min(end, max(job_axis.find_iteration(stop) for job_axis in axes) + 1)
    width = metric_buckets.choose_width(max(1, end - first), buckets)
    found: dict[str, list[tuple[JobAxis, Buckets]]] = {}
    for job, job_axis in zip(group.jobs, axes, strict=True):
        read = metric_buckets.read(session, job, series=names, start=first, stop=end, width=width)
        for name, columns in read.items():
            found.setdefault(name, []).append((job_axis, columns))
    return {name: _describe_buckets(found[name]) for name in names if name in found}


def _describe_buckets(members: Sequence[tuple[JobAxis, Buckets]]) -> GroupSeries:
    rows: dict[int, list[tuple[float, float, float, float]]] = {}
    for axis, columns in members:
        columns_used = (columns.mean, axis.positions(columns), columns.min, columns.max)
        for start, mean, x, low, high in zip(columns.start, *columns_used, strict=True):
            if mean is not None and low is not None and high is not None:
                rows.setdefault(start, []).append((mean, x, low, high))
    series = GroupSeries(*([] for _ in fields(GroupSeries)))
    newest = -math.inf
    for start in sorted(rows):
        means, positions, lows, highs = zip(*rows[start], strict=True)
        described = describe_values(means)
        assert described is not None, "a row has at least one finite value"
        # Where a slower job has ended, the curve of the others does not turn back.
        newest = max(newest, statistics.fmean(positions))
        series.x.append(newest)
        series.start.append(start)
        for name in ("n", "mean", "std", "ci_low", "ci_high"):
            getattr(series, name).append(getattr(described, name))
        series.min.append(min(lows))
        series.max.append(max(highs))
    return series


@cache
def _t_quantile(degrees_of_freedom: int) -> float:
    # A tenth of a second and 20 MB, for requests of this kind only.
    from scipy.special import stdtrit  # noqa: PLC0415

    return float(stdtrit(degrees_of_freedom, (1 + _CONFIDENCE) / 2))


def _differing_fields(specs: Sequence[Mapping[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for spec in specs for name in spec)
    return [
        name for name in names if any(spec.get(name) != specs[0].get(name) for spec in specs[1:])
    ]
