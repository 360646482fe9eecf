"""Trials: made once, found again, followed, stopped, ranked; and what ends a search."""

from typing import Any

import pytest

from service.errors import Conflict, NotFound
from service.specs.protocol import MetricPoint
from service.states import JobState, Reason, SearchEndReason, SearchState
from tests.support.core import Core
from tests.support.searching import Searching


@pytest.fixture
def searching(core: Core) -> Searching:
    return Searching(core)


def test_a_trial_is_a_job_with_its_parameters_its_name_and_its_tag(searching: Searching) -> None:
    search_id = searching.run(name="rates")
    taken = searching.take(search_id, "a", 0.25)
    job = searching.core.job(taken.job_id)
    assert job.state is JobState.QUEUED
    assert job.spec["recipe"]["learning_rate"] == 0.25
    assert (job.name, job.spec["tags"]) == ("rates #1", [f"search:{search_id}"])


def test_a_trial_that_is_asked_for_twice_is_made_once(searching: Searching) -> None:
    search_id = searching.run()
    assert searching.take(search_id, "a") == searching.take(search_id, "a")


def test_two_trials_with_equal_parameters_are_two(searching: Searching) -> None:
    search_id = searching.run()
    assert [searching.take(search_id, one).number for one in "ab"] == [1, 2]


def test_another_driver_finds_the_trials_of_the_one_before(searching: Searching) -> None:
    search_id = searching.run()
    before = [searching.take(search_id, one, rate) for one, rate in (("a", 0.1), ("b", 0.2))]
    searching.driver_dies(search_id)
    config = searching.next_driver(search_id)
    assert config.known_params == [{"recipe.learning_rate": 0.1}, {"recipe.learning_rate": 0.2}]
    again = [searching.take(search_id, one, rate) for one, rate in (("x", 0.2), ("y", 0.1))]
    assert again == before[::-1]
    assert searching.take(search_id, "z", 0.1).number == 3


def test_no_more_trials_are_made_than_the_budget_has(searching: Searching) -> None:
    search_id = searching.run(budget={"trials": 1})
    searching.take(search_id, "a")
    with pytest.raises(Conflict, match=r"already has its 1 trial$"):
        searching.take(search_id, "b")


def test_evaluations_come_one_by_one_and_the_last_with_the_jobs_end(searching: Searching) -> None:
    core = searching.core
    search_id = searching.run()
    searching.take(search_id, "a")
    assert searching.answer(search_id, "a") is None
    attempt = core.start_next()
    searching.evaluate(attempt, 1, 10, 40.0)
    first = searching.answer(search_id, "a")
    assert first is not None
    assert first.evaluation is not None
    assert (first.evaluation.iteration, first.evaluation.is_last) == (10, False)
    assert first.evaluation.values == {"test/error": 40.0}

    searching.evaluate(attempt, 2, 20, 30.0)
    assert searching.answer(search_id, "a", after=10) is None, "its job has not ended"
    core.finish(attempt.attempt_id)
    last = searching.answer(search_id, "a", after=10)
    assert last is not None
    assert last.evaluation is not None
    assert (last.evaluation.values, last.evaluation.is_last) == ({"test/error": 30.0}, True)


def test_a_driver_that_begins_again_is_told_everything_again(searching: Searching) -> None:
    search_id = searching.run()
    searching.take(search_id, "a")
    searching.train(7.0)
    searching.driver_dies(search_id)
    searching.next_driver(search_id)
    searching.take(search_id, "x")
    told = [searching.answer(search_id, "x", after=after) for after in (0, 10)]
    assert [
        (one.evaluation.iteration, one.evaluation.is_last)
        for one in told
        if one is not None and one.evaluation is not None
    ] == [(10, False), (20, True)]


def test_an_evaluation_that_was_not_finite_is_passed_over(searching: Searching) -> None:
    core = searching.core
    search_id = searching.run(metric="test/loss")
    searching.take(search_id, "a")
    attempt = core.start_next()
    for sequence, (iteration, loss) in enumerate(((10, None), (15, 2.0)), start=1):
        points = [
            MetricPoint(series="test/error", iteration=iteration, value=50.0),
            MetricPoint(series="test/loss", iteration=iteration, value=loss),
        ]
        core.report(attempt.attempt_id, sequence, metrics=points)
    told = searching.answer(search_id, "a")
    assert told is not None
    assert told.evaluation is not None
    assert (told.evaluation.iteration, told.evaluation.values) == (15, {"test/loss": 2.0})


def test_a_cancelled_trial_ends_with_what_it_had(searching: Searching) -> None:
    core = searching.core
    search_id = searching.run()
    searching.take(search_id, "a")
    attempt = core.start_next()
    searching.evaluate(attempt, 1, 10, 40.0)
    core.finish(attempt.attempt_id, Reason.CANCELLED)
    for after in (0, 10):
        told = searching.answer(search_id, "a", after=after)
        assert told is not None
        assert told.evaluation is not None
        assert told.evaluation.is_last


@pytest.mark.parametrize("reason", [Reason.DIVERGED, Reason.CANCELLED])
def test_a_trial_that_ended_without_a_measurement_says_so(
    searching: Searching, reason: Reason
) -> None:
    core = searching.core
    search_id = searching.run()
    job_id = searching.take(search_id, "a").job_id
    attempt = core.start_next()
    core.report(attempt.attempt_id, 1)
    core.finish(attempt.attempt_id, reason)
    told = searching.answer(search_id, "a")
    assert told is not None
    assert told.failure is not None
    assert job_id in told.failure


def test_a_trial_that_its_scheduler_stops_says_so_and_why(searching: Searching) -> None:
    core = searching.core
    search_id = searching.run(scheduler="asha")
    job_id = searching.take(search_id, "a").job_id
    attempt = core.start_next()
    searching.evaluate(attempt, 1, 10, 40.0)
    assert searching.stop(search_id, "a")
    assert not searching.stop(search_id, "a"), "once is enough"
    core.finish(attempt.attempt_id, Reason.EARLY_STOPPED)
    job = core.job(job_id)
    assert (job.state, job.reason) == (JobState.CANCELLED, Reason.EARLY_STOPPED)
    assert job.message == "stopped by asha at iteration 10: test/error 40"
    assert searching.standing(search_id).trials[0].stop_reason == job.message


def test_a_trial_that_ended_before_it_was_stopped_says_nothing_of_it(
    searching: Searching,
) -> None:
    core = searching.core
    search_id = searching.run(scheduler="asha")
    searching.take(search_id, "a")
    attempt = core.start_next()
    searching.evaluate(attempt, 1, 10, 40.0)
    assert searching.stop(search_id, "a")
    core.finish(attempt.attempt_id)
    (trial,) = searching.standing(search_id).trials
    assert (trial.job.reason, trial.stop_reason) == (Reason.COMPLETED, None)


def test_a_waiting_trial_is_stopped_at_once(searching: Searching) -> None:
    search_id = searching.run()
    job_id = searching.take(search_id, "a").job_id
    assert searching.stop(search_id, "a")
    assert searching.core.job(job_id).reason is Reason.EARLY_STOPPED


def test_a_trial_that_nobody_follows_is_not_found(searching: Searching) -> None:
    search_id = searching.run()
    with pytest.raises(NotFound):
        searching.answer(search_id, "a")


def test_trials_stand_by_their_last_error_and_those_without_one_last(searching: Searching) -> None:
    search_id = searching.run()
    for tune_id in "abcd":
        searching.take(search_id, tune_id)
    for error in (9.0, 3.0):
        searching.train(error)
    searching.train(1.0, reason=Reason.DIVERGED)
    standing = searching.standing(search_id)
    assert [(one.row.number, one.rank) for one in standing.trials] == [
        (2, 0),
        (1, 1),
        (3, None),
        (4, None),
    ]
    assert [one.row.number for one in standing.best] == [2]
    assert standing.counts[JobState.SUCCEEDED] == 2
    assert standing.iterations == 60


def test_of_several_metrics_the_best_are_those_that_none_beats_in_all(
    searching: Searching,
) -> None:
    core = searching.core
    search_id = searching.run(metric=["test/error", "train/error"], scheduler="fifo")
    for tune_id, errors in (("a", (5.0, 1.0)), ("b", (1.0, 5.0)), ("c", (6.0, 2.0))):
        searching.take(search_id, tune_id)
        attempt = core.start_next()
        points = [
            MetricPoint(series=f"{split}/error", iteration=20, value=value)
            for split, value in zip(("test", "train"), errors, strict=True)
        ]
        core.report(attempt.attempt_id, 1, metrics=points)
        core.finish(attempt.attempt_id)
    standing = searching.standing(search_id)
    assert [(one.row.number, one.rank) for one in standing.trials] == [(1, 0), (2, 0), (3, 1)]
    assert [one.row.number for one in standing.best] == [1, 2]


@pytest.mark.parametrize(
    ("budget", "end"),
    [
        ({"target_error": 10.0}, SearchEndReason.TARGET),
        ({"iterations": 15}, SearchEndReason.ITERATIONS),
        ({"wall_seconds": 60.0}, SearchEndReason.WALL_TIME),
    ],
)
def test_a_budget_that_is_used_up_ends_the_search_and_what_runs_of_it(
    searching: Searching, budget: dict[str, Any], end: SearchEndReason
) -> None:
    core = searching.core
    search_id = searching.run(budget={"trials": 3} | budget)
    searching.take(search_id, "a")
    waiting = searching.take(search_id, "b").job_id
    assert not searching.heard(search_id)
    searching.train(9.0)
    core.clock.advance(60.0)
    assert searching.heard(search_id)
    row = searching.row(search_id)
    assert (row.state, row.end_reason) == (SearchState.SUCCEEDED, end)
    assert core.job(waiting).reason is Reason.EARLY_STOPPED


def test_a_search_none_of_whose_trials_succeeded_has_failed(searching: Searching) -> None:
    search_id = searching.run(budget={"trials": 1})
    searching.take(search_id, "a")
    searching.train(9.0, reason=Reason.DIVERGED)
    searching.finish(search_id)
    row = searching.row(search_id)
    assert (row.state, row.end_reason) == (SearchState.FAILED, SearchEndReason.NO_TRIAL)
