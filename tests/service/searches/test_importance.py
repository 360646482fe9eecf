"""Importance: the field that decides has the larger share."""

from typing import Any

from service.searches import importance
from service.searches.ranking import Trial
from service.specs import search_spec
from service.specs.search_spec import Metric
from service.states import JobState
from service.storage.tables import JobRow, TrialRow
from tests.support.searching import search_body

SPACE = {
    "recipe.learning_rate": {"loguniform": [0.001, 1.0]},
    "shortcut": {"choice": ["A", "B"]},
    "seed": {"randint": [0, 100]},
}


def _trial(params: dict[str, Any], error: float, state: JobState = JobState.SUCCEEDED) -> Trial:
    row = TrialRow(search_id="s", number=1, repeat=0, job_id="j", params=params, driver_trial_id="")
    return Trial(row=row, job=JobRow(state=state), values={Metric.TEST_ERROR: error}, rank=0)


def _params(number: int, shortcut: str) -> dict[str, Any]:
    return {"recipe.learning_rate": 0.002 * (number + 1), "shortcut": shortcut, "seed": number}


def test_the_field_that_decides_has_nearly_all_of_the_variance() -> None:
    spec = search_spec.parse_search_spec(search_body(space=SPACE))
    trials = [
        _trial(_params(number, shortcut), 40.0 if shortcut == "A" else 5.0)
        for number in range(10)
        for shortcut in "AB"
    ]
    (found,) = importance.compute_importance(spec, trials)
    assert (found.metric, found.trials) == (Metric.TEST_ERROR, 20)
    assert found.shares.keys() == SPACE.keys()
    assert found.shares["shortcut"] > 0.9
    assert abs(sum(found.shares.values()) - 1.0) < 1e-6


def test_few_trials_say_nothing_and_those_stopped_early_do_not_count() -> None:
    spec = search_spec.parse_search_spec(search_body(space=SPACE))
    stopped = [_trial(_params(number, "A"), 1.0, JobState.CANCELLED) for number in range(9)]
    (found,) = importance.compute_importance(spec, [*stopped, _trial(_params(9, "A"), 1.0)])
    assert (found.trials, found.shares) == (1, {})


def test_a_value_just_outside_of_the_space_counts_as_the_nearest_inside() -> None:
    spec = search_spec.parse_search_spec(search_body(space=SPACE))
    outside = {"recipe.learning_rate": 1.0000000000000002, "shortcut": "A", "seed": 100}
    inside = outside | {"recipe.learning_rate": 1.0, "seed": 99}
    others = [_trial(_params(number, "B"), float(number)) for number in range(9)]
    (expected,) = importance.compute_importance(spec, [*others, _trial(inside, 30.0)])
    (found,) = importance.compute_importance(spec, [*others, _trial(outside, 30.0)])
    assert found == expected
