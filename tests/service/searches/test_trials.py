"""Trials as a driver sees them: assigned, followed by their evaluations, stopped."""

import pytest

from service.errors import Conflict, NotFound
from service.states import JobState, Reason
from tests.support.core import make_point, written
from tests.support.searching import TINY, Searching


def test_a_trial_is_a_job_with_its_parameters_a_name_and_a_tag(searching: Searching) -> None:
    search_id = searching.run(name="rates")
    taken = searching.assign_trial(search_id, "a", 0.25)
    job = searching.core.job(taken.job_id)
    assert job.state is JobState.QUEUED
    assert job.spec["recipe"]["learning_rate"] == 0.25
    assert (job.name, job.spec["tags"]) == ("rates #1", [f"search:{search_id}"])


def test_a_repeated_proposal_is_the_same_trial(searching: Searching) -> None:
    search_id = searching.run()
    assert searching.assign_trial(search_id, "a") == searching.assign_trial(search_id, "a")


def test_two_proposals_with_equal_parameters_are_two_trials(searching: Searching) -> None:
    search_id = searching.run()
    assert [searching.assign_trial(search_id, tune_id).number for tune_id in "ab"] == [1, 2]


def test_a_new_driver_is_assigned_the_trials_of_the_previous_one(searching: Searching) -> None:
    search_id = searching.run()
    before = [
        searching.assign_trial(search_id, tune_id, rate)
        for tune_id, rate in (("a", 0.1), ("b", 0.2))
    ]
    searching.terminate_driver(search_id)
    config = searching.start_next_driver(search_id)
    assert config.known_params == [{"recipe.learning_rate": 0.1}, {"recipe.learning_rate": 0.2}]
    again = [
        searching.assign_trial(search_id, tune_id, rate)
        for tune_id, rate in (("x", 0.2), ("y", 0.1))
    ]
    assert again == before[::-1]
    assert searching.assign_trial(search_id, "z", 0.1).number == 3


def test_no_trial_exceeds_the_budget(searching: Searching) -> None:
    search_id = searching.run(budget={"trials": 1})
    searching.assign_trial(search_id, "a")
    with pytest.raises(Conflict, match=r"already has its 1 trial$"):
        searching.assign_trial(search_id, "b")


def test_evaluations_are_returned_in_order_and_the_last_once_the_job_has_ended(
    searching: Searching,
) -> None:
    core = searching.core
    search_id = searching.run()
    searching.assign_trial(search_id, "a")
    assert searching.next_evaluation(search_id, "a") is None
    attempt = core.start_next()
    searching.evaluate(attempt, 1, 10, 40.0)
    first = searching.next_evaluation(search_id, "a")
    assert first is not None
    assert first.evaluation is not None
    assert (first.evaluation.iteration, first.evaluation.is_last) == (10, False)
    assert first.evaluation.values == {"test/error": 40.0}

    searching.evaluate(attempt, 2, 20, 30.0)
    assert searching.next_evaluation(search_id, "a", after=10) is None, "its job has not ended"
    core.finish(attempt.attempt_id)
    last = searching.next_evaluation(search_id, "a", after=10)
    assert last is not None
    assert last.evaluation is not None
    assert (last.evaluation.values, last.evaluation.is_last) == ({"test/error": 30.0}, True)


def test_a_new_driver_gets_all_evaluations_again(searching: Searching) -> None:
    search_id = searching.run()
    searching.assign_trial(search_id, "a")
    searching.train(7.0)
    searching.terminate_driver(search_id)
    searching.start_next_driver(search_id)
    searching.assign_trial(search_id, "x")
    responses = [searching.next_evaluation(search_id, "x", after=after) for after in (0, 10)]
    assert [
        (response.evaluation.iteration, response.evaluation.is_last)
        for response in responses
        if response is not None and response.evaluation is not None
    ] == [(10, False), (20, True)]


def test_an_evaluation_that_was_not_finite_is_skipped(searching: Searching) -> None:
    core = searching.core
    search_id = searching.run(metric="test/loss")
    searching.assign_trial(search_id, "a")
    attempt = core.start_next()
    for sequence, (iteration, loss) in enumerate(((10, None), (15, 2.0)), start=1):
        points = [
            make_point(series="test/error", iteration=iteration, value=50.0),
            make_point(series="test/loss", iteration=iteration, value=loss),
        ]
        core.report(attempt.attempt_id, sequence, metrics=points)
    response = searching.next_evaluation(search_id, "a")
    assert response is not None
    assert response.evaluation is not None
    assert (response.evaluation.iteration, response.evaluation.values) == (15, {"test/loss": 2.0})


def test_the_last_evaluation_of_a_cancelled_trial_is_its_newest(searching: Searching) -> None:
    core = searching.core
    search_id = searching.run()
    searching.assign_trial(search_id, "a")
    attempt = core.start_next()
    searching.evaluate(attempt, 1, 10, 40.0)
    core.finish(attempt.attempt_id, Reason.CANCELLED)
    for after in (0, 10):
        response = searching.next_evaluation(search_id, "a", after=after)
        assert response is not None
        assert response.evaluation is not None
        assert response.evaluation.is_last


@pytest.mark.parametrize("reason", [Reason.DIVERGED, Reason.CANCELLED])
def test_a_trial_that_ended_without_an_evaluation_has_failed(
    searching: Searching, reason: Reason
) -> None:
    core = searching.core
    search_id = searching.run()
    job_id = searching.assign_trial(search_id, "a").job_id
    attempt = core.start_next()
    core.report(attempt.attempt_id, 1)
    core.finish(attempt.attempt_id, reason)
    response = searching.next_evaluation(search_id, "a")
    assert response is not None
    assert response.failure is not None
    assert job_id in response.failure


def test_a_trial_that_its_scheduler_stops_has_the_reason(searching: Searching) -> None:
    core = searching.core
    search_id = searching.run(scheduler="asha")
    job_id = searching.assign_trial(search_id, "a").job_id
    attempt = core.start_next()
    searching.evaluate(attempt, 1, 10, 40.0)
    assert searching.stop_trial(search_id, "a")
    assert not searching.stop_trial(search_id, "a"), "once is enough"
    core.finish(attempt.attempt_id, Reason.EARLY_STOPPED)
    job = core.job(job_id)
    assert (job.state, job.reason) == (JobState.CANCELLED, Reason.EARLY_STOPPED)
    assert job.message == "stopped by asha at iteration 10: test/error 40"
    assert searching.read_progress(search_id).trials[0].stop_reason == job.message


def test_a_waiting_trial_is_stopped_at_once(searching: Searching) -> None:
    search_id = searching.run()
    job_id = searching.assign_trial(search_id, "a").job_id
    assert searching.stop_trial(search_id, "a")
    assert searching.core.job(job_id).reason is Reason.EARLY_STOPPED


def test_an_unassigned_trial_is_not_found(searching: Searching) -> None:
    search_id = searching.run()
    with pytest.raises(NotFound):
        searching.next_evaluation(search_id, "a")


def test_a_trial_with_repeats_has_a_job_for_each_seed(searching: Searching) -> None:
    search_id = searching.run(name="rates", repeats=3, job=written(recipe=TINY, seed=5))
    taken = searching.assign_trial(search_id, "a")
    (trial,) = searching.read_progress(search_id).trials
    assert trial.job.id == taken.job_id
    jobs = [searching.core.job(job.id) for job in trial.jobs]
    assert [(job.spec["seed"], job.name) for job in jobs] == [
        (5, "rates #1.1"),
        (6, "rates #1.2"),
        (7, "rates #1.3"),
    ]
    assert searching.assign_trial(search_id, "a") == taken


def test_a_trial_with_repeats_has_one_evaluation_their_mean(searching: Searching) -> None:
    search_id = searching.run(repeats=2)
    searching.assign_trial(search_id, "a")
    searching.train(4.0)
    assert searching.next_evaluation(search_id, "a") is None
    searching.train(7.0)
    response = searching.next_evaluation(search_id, "a")
    assert response is not None
    assert response.evaluation is not None
    assert response.evaluation.values == {"test/error": 5.5}
    assert (response.evaluation.iteration, response.evaluation.is_last) == (20, True)


def test_a_trial_whose_repeat_fails_has_no_value(searching: Searching) -> None:
    search_id = searching.run(repeats=2)
    searching.assign_trial(search_id, "a")
    searching.train(4.0, reason=Reason.DIVERGED)
    assert searching.next_evaluation(search_id, "a") is None
    searching.train(7.0)
    response = searching.next_evaluation(search_id, "a")
    assert response is not None
    assert response.failure is not None
    assert "has failed" in response.failure


def test_a_new_driver_is_assigned_all_repeats_of_a_trial(searching: Searching) -> None:
    search_id = searching.run(repeats=2)
    before = [
        searching.assign_trial(search_id, tune_id, rate)
        for tune_id, rate in (("a", 0.1), ("b", 0.2))
    ]
    searching.terminate_driver(search_id)
    config = searching.start_next_driver(search_id)
    assert config.known_params == [{"recipe.learning_rate": 0.1}, {"recipe.learning_rate": 0.2}]
    assert searching.assign_trial(search_id, "x", 0.2) == before[1]
    assert searching.assign_trial(search_id, "y", 0.1) == before[0]
    for error in (1.0, 3.0):
        searching.train(error)
    response = searching.next_evaluation(search_id, "y")
    assert response is not None
    assert response.evaluation is not None
    assert response.evaluation.values == {"test/error": 2.0}
