"""Metrics: appended points and read series."""

from service.jobs import metrics
from service.jobs.metrics import Series
from tests.support.core import START, Core, job_id_of, make_point


def _series(values: list[float | None]) -> Series:
    """As `_append` reports them."""
    iterations = list(range(1, len(values) + 1))
    return Series(
        iterations,
        values,
        seconds=[float(iteration) for iteration in iterations],
        times=[START.timestamp() + iteration for iteration in iterations],
    )


def _append(core: Core, attempt_id: str, sequence: int, series: str, *values: float | None) -> None:
    points = [
        make_point(series=series, iteration=iteration, value=value)
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
        "test/error": _series([50.0]),
        "train/loss": _series([2.0, 1.0]),
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
    points = [make_point(series="train/loss", iteration=1, value=value) for value in (2.0, 1.0)]
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
        found = metrics.read_series(session, job_id_of(claimed))
    assert len(found["train/loss"].values) == 5_000
