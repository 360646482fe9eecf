"""The end of a search by its budget or its driver."""

from typing import Any

import pytest

from service.states import Reason, SearchEndReason, SearchState
from tests.support.searching import Searching


@pytest.mark.parametrize(
    ("budget", "end"),
    [
        ({"target_error": 10.0}, SearchEndReason.TARGET),
        ({"iterations": 15}, SearchEndReason.ITERATIONS),
        ({"wall_seconds": 60.0}, SearchEndReason.WALL_TIME),
    ],
)
def test_a_used_up_budget_ends_the_search_and_stops_its_trials(
    searching: Searching, budget: dict[str, Any], end: SearchEndReason
) -> None:
    core = searching.core
    search_id = searching.run(budget={"trials": 3} | budget)
    searching.assign_trial(search_id, "a")
    waiting = searching.assign_trial(search_id, "b").job_id
    assert not searching.record_heartbeat(search_id)
    searching.train(9.0)
    core.clock.advance(60.0)
    assert searching.record_heartbeat(search_id)
    row = searching.row(search_id)
    assert (row.state, row.end_reason) == (SearchState.SUCCEEDED, end)
    assert core.job(waiting).reason is Reason.EARLY_STOPPED


def test_a_search_without_a_succeeded_trial_fails(searching: Searching) -> None:
    search_id = searching.run(budget={"trials": 1})
    searching.assign_trial(search_id, "a")
    searching.train(9.0, reason=Reason.DIVERGED)
    searching.finish_driver(search_id)
    row = searching.row(search_id)
    assert (row.state, row.end_reason) == (SearchState.FAILED, SearchEndReason.NO_TRIAL)
