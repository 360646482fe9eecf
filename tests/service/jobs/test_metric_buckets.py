"""Buckets of metrics: equal to what a plain computation over all points gives."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from service.jobs import metric_buckets
from service.jobs.metric_buckets import Buckets
from service.states import Reason
from service.storage.tables import MetricBucketRow
from tests.support.core import Core, Taken, job_id_of, make_point

SERIES = "train/loss"

Points = dict[int, float | None]


@pytest.fixture
def few_points_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets are stored from the fifth point on."""
    monkeypatch.setattr(metric_buckets, "_MAX_UNBUCKETED_POINTS", 5)


def _report(core: Core, claimed: Taken, sequence: int, points: Points) -> None:
    made = [make_point(SERIES, iteration, value) for iteration, value in points.items()]
    core.report(claimed.attempt_id, sequence, metrics=made)


def _read(core: Core, job_id: str, *, start: int, stop: int, width: int) -> Buckets | None:
    with core.database.reading() as session:
        job = core.job(job_id)
        found = metric_buckets.read(
            session, job, series=[SERIES], start=start, stop=stop, width=width
        )
    return found.get(SERIES)


def _expected(points: Points, *, start: int, stop: int, width: int) -> Buckets | None:
    start, stop = start - start % width, stop + -stop % width
    by_bucket: dict[int, list[int]] = {}
    for iteration in sorted(points):
        if start <= iteration < stop:
            by_bucket.setdefault(iteration - iteration % width, []).append(iteration)
    if not by_bucket:
        return None
    rows = []
    for bucket, iterations in by_bucket.items():
        values = [value for i in iterations if (value := points[i]) is not None]
        last = iterations[-1]
        statistics: Sequence[float | None] = (
            (sum(values) / len(values), values[0], min(values), max(values), values[-1])
            if values
            else (None,) * 5
        )
        time = make_point(SERIES, last, None).at.timestamp()
        rows.append((bucket, len(values), *statistics, last, float(last), time))
    return Buckets(*map(list, zip(*rows, strict=True)))


# Integers have exact sums, in any order.
_values = st.one_of(st.none(), st.integers(-100, 100).map(float))


@dataclass(frozen=True)
class Query:
    start: int
    length: int
    exponent: int


_queries = st.lists(
    st.builds(Query, st.integers(0, 400), st.integers(1, 400), st.integers(0, 8)), min_size=1
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    reports=st.lists(
        st.dictionaries(st.integers(0, 300), _values, min_size=1, max_size=30),
        min_size=1,
        max_size=8,
    ),
    queries=_queries,
)
@pytest.mark.usefixtures("few_points_suffice")
def test_buckets_hold_what_all_points_give_in_any_order_of_reports(
    core: Core, reports: list[Points], queries: list[Query]
) -> None:
    core.record_cluster(cpus=1000)
    claimed = core.start()
    points: Points = {}
    for sequence, report in enumerate(reports, start=1):
        _report(core, claimed, sequence, report)
        points |= report
    for query in queries:
        limits = {
            "start": query.start,
            "stop": query.start + query.length,
            "width": 2**query.exponent,
        }
        assert _read(core, job_id_of(claimed), **limits) == _expected(points, **limits)


@pytest.mark.usefixtures("few_points_suffice")
def test_an_attempt_that_repeats_iterations_replaces_their_buckets(core: Core) -> None:
    first = core.run()
    _report(core, first, 2, dict.fromkeys(range(100), 1.0))
    core.end(first, Reason.WORKER_DIED)
    second = core.retry()
    _report(core, second, 2, dict.fromkeys(range(40, 60), 2.0))
    buckets = _read(core, job_id_of(first), start=0, stop=100, width=16)
    assert buckets is not None
    assert buckets.max == [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 1.0]
    assert buckets.min == [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert buckets.mean[3] == (12 * 2.0 + 4 * 1.0) / 16


@pytest.mark.parametrize("spacing", [1, 100, 128])
def test_not_many_more_buckets_than_points_are_stored(core: Core, spacing: int) -> None:
    claimed = core.start()
    for sequence in range(1, 9):
        points = range((sequence - 1) * 512 * spacing, sequence * 512 * spacing, spacing)
        _report(core, claimed, sequence, dict.fromkeys(points, 1.0))
    assert 0 < _count_buckets(core) <= 1.6 * 8 * 512


def _count_buckets(core: Core) -> int:
    with core.database.reading() as session:
        return session.scalar(select(func.count()).select_from(MetricBucketRow)) or 0


@pytest.mark.parametrize(
    ("iterations", "buckets", "width"),
    [(1, 1000, 1), (1000, 1000, 1), (1001, 1000, 2), (64_000, 1000, 64), (64_001, 1000, 128)],
)
def test_the_width_is_the_smallest_power_of_two_that_suffices(
    iterations: int, buckets: int, width: int
) -> None:
    assert metric_buckets.choose_width(iterations, buckets) == width
