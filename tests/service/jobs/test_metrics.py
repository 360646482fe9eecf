"""Metrics: appended points, read series, and downsampling."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from service.jobs import metrics
from service.jobs.metrics import Series
from service.specs.protocol import MetricPoint
from tests.support.core import Core, job_id_of


def _series(count: int) -> Series:
    return Series(iterations=list(range(count)), values=[float(n) for n in range(count)])


def _append(core: Core, attempt_id: str, sequence: int, series: str, *values: float | None) -> None:
    points = [
        MetricPoint(series=series, iteration=iteration, value=value)
        for iteration, value in enumerate(values, start=1)
    ]
    core.report(attempt_id, sequence, metrics=points)


def test_points_are_read_by_series_and_iteration(core: Core) -> None:
    claimed = core.start()
    _append(core, claimed.attempt_id, 1, "train/loss", 2.0, 1.0)
    _append(core, claimed.attempt_id, 2, "test/error", 50.0)
    with core.database.reading() as session:
        found = metrics.read_series(session, job_id_of(claimed))
        named = metrics.read_series(session, job_id_of(claimed), names=["train/loss", "no/such"])
    assert found == {
        "test/error": Series(iterations=[1], values=[50.0]),
        "train/loss": Series(iterations=[1, 2], values=[2.0, 1.0]),
    }
    assert named == {"train/loss": found["train/loss"]}


def test_a_value_that_was_not_finite_is_stored_as_none(core: Core) -> None:
    claimed = core.start()
    _append(core, claimed.attempt_id, 1, "train/loss", 2.0, None)
    with core.database.reading() as session:
        found = metrics.read_series(session, job_id_of(claimed))
    assert found["train/loss"].values == [2.0, None]
    assert core.job(job_id_of(claimed)).latest_metrics == {"train/loss": None}


def test_the_last_of_two_values_in_one_report_counts(core: Core) -> None:
    claimed = core.start()
    points = [MetricPoint(series="train/loss", iteration=1, value=value) for value in (2.0, 1.0)]
    core.report(claimed.attempt_id, 1, metrics=points)
    with core.database.reading() as session:
        assert metrics.read_series(session, job_id_of(claimed))["train/loss"].values == [1.0]


def test_the_latest_metrics_of_a_job_are_the_newest_of_each_series(core: Core) -> None:
    claimed = core.start()
    _append(core, claimed.attempt_id, 1, "train/loss", 2.0, 1.0)
    _append(core, claimed.attempt_id, 2, "test/error", 50.0)
    assert core.job(job_id_of(claimed)).latest_metrics == {"train/loss": 1.0, "test/error": 50.0}


def test_a_report_of_5000_points_is_stored(core: Core) -> None:
    claimed = core.start()
    _append(core, claimed.attempt_id, 1, "train/loss", *(float(n) for n in range(5_000)))
    with core.database.reading() as session:
        found = metrics.read_series(session, job_id_of(claimed), points=10)
    assert len(found["train/loss"].values) == 10


@given(count=st.integers(0, 300), points=st.integers(1, 320))
def test_a_downsampled_series_has_at_most_as_many_points(count: int, points: int) -> None:
    downsampled = metrics.downsample(_series(count), points)
    assert len(downsampled.iterations) == min(count, points)
    assert sorted(set(downsampled.iterations)) == downsampled.iterations
    assert downsampled.values == [float(iteration) for iteration in downsampled.iterations]


@given(count=st.integers(2, 300), points=st.integers(2, 320))
def test_a_downsampled_series_keeps_its_first_and_last_point(count: int, points: int) -> None:
    downsampled = metrics.downsample(_series(count), points)
    assert (downsampled.iterations[0], downsampled.iterations[-1]) == (0, count - 1)


@given(count=st.integers(3, 300), points=st.integers(2, 320))
def test_the_points_of_a_downsampled_series_are_evenly_spaced(count: int, points: int) -> None:
    downsampled = metrics.downsample(_series(count), points).iterations
    gaps = [after - before for before, after in itertools.pairwise(downsampled)]
    assert max(gaps) - min(gaps) <= 1


def test_one_point_of_a_series_is_its_last() -> None:
    assert metrics.downsample(_series(9), 1) == Series(iterations=[8], values=[8.0])
