"""Drivers of searches: one at a time, replaced when it dies, until too many have died."""

import pytest

from service.errors import Conflict
from service.searches import drivers
from service.states import JobState, SearchEndReason, SearchState
from tests.support.searching import Searching


def test_a_new_search_gets_a_driver_once(searching: Searching) -> None:
    search_id = searching.submit()
    (start,) = searching.start_drivers()
    assert start.id == f"search-{search_id}-d1"
    assert searching.start_drivers() == []


def test_an_unconfirmed_submission_of_a_driver_is_repeated(searching: Searching) -> None:
    searching.submit()
    with searching.core.database.transaction() as session:
        (first,) = drivers.take_startable(session, now=searching.core.clock.now)
    searching.core.clock.advance(61.0)
    (again,) = searching.start_drivers()
    assert again.id == first.id
    assert again.secret != first.secret


def test_a_dead_driver_is_replaced_after_a_backoff_that_doubles(searching: Searching) -> None:
    search_id = searching.submit()
    waits = []
    for _ in range(drivers.MAX_FAILURES - 1):
        searching.start_drivers()
        searching.terminate_driver(search_id)
        not_before = searching.row(search_id).driver_not_before
        assert not_before is not None
        waits.append((not_before - searching.core.clock.now).total_seconds())
        searching.core.clock.advance(waits[-1])
    for wait, longest in zip(waits, (1.0, 2.0, 4.0, 8.0), strict=True):
        assert longest / 2 <= wait <= longest


def test_a_search_fails_when_its_drivers_die_without_assigning_a_trial(
    searching: Searching,
) -> None:
    search_id = searching.submit()
    for _ in range(drivers.MAX_FAILURES):
        searching.core.clock.advance(60.0)
        searching.start_drivers()
        searching.terminate_driver(search_id)
    row = searching.row(search_id)
    assert (row.state, row.end_reason) == (SearchState.FAILED, SearchEndReason.DRIVER)
    assert searching.start_drivers() == []


def test_an_assigned_trial_resets_the_count_of_failures(searching: Searching) -> None:
    search_id = searching.run()
    for number in range(drivers.MAX_FAILURES):
        searching.assign_trial(search_id, "a", 0.1 + number / 100) if number < 4 else None
        searching.terminate_driver(search_id)
        searching.start_next_driver(search_id)
    assert searching.row(search_id).state is SearchState.RUNNING


def test_a_paused_search_gets_no_driver_until_it_is_resumed(searching: Searching) -> None:
    search_id = searching.run()
    searching.command("pause", search_id)
    searching.terminate_driver(search_id)
    assert searching.start_drivers() == []
    searching.command("resume", search_id)
    assert len(searching.start_drivers()) == 1
    assert searching.row(search_id).driver_failures == 0


def test_a_resumed_search_waits_until_its_old_driver_has_terminated(searching: Searching) -> None:
    search_id = searching.run()
    searching.command("pause", search_id)
    searching.command("resume", search_id)
    assert searching.start_drivers() == []
    with pytest.raises(Conflict, match="no longer needs driver 1"):
        searching.begin_driver(search_id)


def test_a_draining_driver_cannot_finish_its_search(searching: Searching) -> None:
    search_id = searching.run()
    searching.assign_trial(search_id, "a")
    searching.command("pause", search_id)
    searching.finish_driver(search_id)
    assert searching.row(search_id).state is SearchState.PAUSED


def test_a_finished_driver_ends_the_search_and_its_unfinished_trials(searching: Searching) -> None:
    search_id = searching.run()
    searching.assign_trial(search_id, "a")
    searching.train(4.0)
    left = searching.assign_trial(search_id, "b").job_id
    searching.finish_driver(search_id)
    row = searching.row(search_id)
    assert (row.state, row.end_reason) == (SearchState.SUCCEEDED, SearchEndReason.TRIALS)
    assert searching.core.job(left).state is JobState.CANCELLED
