"""The ranking of trials."""

import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.searches.ranking import compute_ranks
from service.specs.search_spec import Metric
from service.states import JobState, Reason
from tests.support.core import make_point
from tests.support.searching import Searching


def test_trials_are_ranked_by_their_newest_error_and_unmeasured_ones_are_last(
    searching: Searching,
) -> None:
    search_id = searching.run()
    for tune_id in "abcd":
        searching.assign_trial(search_id, tune_id)
    for error in (9.0, 3.0):
        searching.train(error)
    searching.train(1.0, reason=Reason.DIVERGED)
    progress = searching.read_progress(search_id)
    assert [(trial.row.number, trial.rank) for trial in progress.trials] == [
        (2, 0),
        (1, 1),
        (3, None),
        (4, None),
    ]
    assert [trial.row.number for trial in progress.best] == [2]
    assert progress.counts[JobState.SUCCEEDED] == 2
    assert progress.iterations == 60


def test_the_best_trials_of_several_metrics_are_the_pareto_front(searching: Searching) -> None:
    core = searching.core
    search_id = searching.run(metric=["test/error", "train/error"], scheduler="fifo")
    for tune_id, errors in (("a", (5.0, 1.0)), ("b", (1.0, 5.0)), ("c", (6.0, 2.0))):
        searching.assign_trial(search_id, tune_id)
        attempt = core.start_next()
        points = [
            make_point(series=f"{split}/error", iteration=20, value=value)
            for split, value in zip(("test", "train"), errors, strict=True)
        ]
        core.report(attempt.attempt_id, 1, metrics=points)
        core.finish(attempt.attempt_id)
    progress = searching.read_progress(search_id)
    assert [(trial.row.number, trial.rank) for trial in progress.trials] == [(1, 0), (2, 0), (3, 1)]
    assert [trial.row.number for trial in progress.best] == [1, 2]


def test_trials_with_repeats_are_ranked_by_their_mean_once_all_have_a_value(
    searching: Searching,
) -> None:
    search_id = searching.run(repeats=2)
    for tune_id in "abc":
        searching.assign_trial(search_id, tune_id)
    for error in (1.0, 9.0, 4.0, 4.5, 2.0):
        searching.train(error)
    progress = searching.read_progress(search_id)
    assert [(trial.row.number, trial.rank) for trial in progress.trials] == [
        (2, 0),
        (1, 1),
        (3, None),
    ]
    best, *_, unfinished = progress.trials
    assert best.values == {Metric.TEST_ERROR: 4.25}
    assert best.stds[Metric.TEST_ERROR] == pytest.approx(0.3536, abs=1e-4)
    assert (best.state, unfinished.state) == (JobState.SUCCEEDED, JobState.QUEUED)
    assert (best.iteration, unfinished.iteration, progress.iterations) == (20, 0, 100)


def test_a_trial_with_a_lost_repeat_has_no_rank(searching: Searching) -> None:
    search_id = searching.run(repeats=2)
    searching.assign_trial(search_id, "a")
    searching.train(1.0)
    searching.train(1.0, reason=Reason.CANCELLED)
    (trial,) = searching.read_progress(search_id).trials
    assert (trial.rank, trial.state) == (None, JobState.CANCELLED)


def test_a_trial_that_ends_before_it_stops_has_no_stop_reason(searching: Searching) -> None:
    core = searching.core
    search_id = searching.run(scheduler="asha")
    searching.assign_trial(search_id, "a")
    attempt = core.start_next()
    searching.evaluate(attempt, 1, 10, 40.0)
    assert searching.stop_trial(search_id, "a")
    core.finish(attempt.attempt_id)
    (trial,) = searching.read_progress(search_id).trials
    assert (trial.job.reason, trial.stop_reason) == (Reason.COMPLETED, None)


def _points(metrics: int) -> st.SearchStrategy[list[tuple[float, ...]]]:
    value = st.integers(0, 4).map(float)
    return st.lists(st.tuples(*[value] * metrics), max_size=12)


@given(st.integers(1, 3).flatmap(_points))
def test_a_rank_is_the_number_of_better_points(points: list[tuple[float, ...]]) -> None:
    def dominates(point: tuple[float, ...], other: tuple[float, ...]) -> bool:
        return point != other and all(a <= b for a, b in zip(point, other, strict=True))

    expected = [sum(dominates(other, point) for other in points) for point in points]
    assert compute_ranks(points) == expected


@pytest.mark.parametrize("metrics", [1, 3])
def test_the_time_to_rank_trials_is_not_quadratic(metrics: int) -> None:
    """10,000 trials, the most that a search has: all pairs would take 50 s."""
    draw = Random(0)
    points = [tuple(draw.random() for _ in range(metrics)) for _ in range(10_000)]
    start = time.process_time()
    compute_ranks(points)
    assert time.process_time() - start < 2.0
