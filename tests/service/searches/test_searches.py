"""Searches: kept, found, paused with their trials, extended, cancelled, deleted."""

import pytest

from service.errors import (
    CannotFit,
    Conflict,
    IdempotencyMismatch,
    IllegalTransition,
    InvalidInput,
    NotFound,
)
from service.jobs import retention
from service.searches import records, submission
from service.specs import search_spec
from service.states import JobState, Reason, SearchEndReason, SearchState
from service.storage import events
from tests.support.core import Core, workers
from tests.support.searching import Searching, search_body


@pytest.fixture
def searching(core: Core) -> Searching:
    return Searching(core)


def test_a_repeated_key_finds_the_search_it_made(searching: Searching) -> None:
    first = searching.submit(key="once")
    assert searching.submit(key="once") == first
    with pytest.raises(IdempotencyMismatch, match=first):
        searching.submit(key="once", seed=1)


def test_a_trial_that_the_cluster_can_never_hold_refuses_the_search(searching: Searching) -> None:
    job = search_body()["job"] | {"resources": workers(65)}
    # Its batch of 128 must be shared equally.
    job["recipe"] = job["recipe"] | {"batch_size": 130}
    with pytest.raises(CannotFit) as refused:
        searching.submit(job=job)
    assert refused.value.field_errors[0].pointer == "/job/resources"


def test_pages_go_from_the_newest_to_the_oldest(searching: Searching) -> None:
    made = [searching.submit() for _ in range(3)]
    with searching.core.database.reading() as session:
        first = records.list_page(session, limit=2)
        assert [one.id for one in first.rows] == made[:0:-1]
        rest = records.list_page(session, limit=2, token=first.next_token)
        assert [one.id for one in rest.rows] == made[:1]
        assert rest.next_token is None


def test_a_search_that_is_not_there_is_not_found(searching: Searching) -> None:
    for wrong in ("0", "not an id!"):
        with pytest.raises(NotFound, match="no search"):
            searching.row(wrong)


def test_a_paused_search_pauses_its_trials_and_no_others(searching: Searching) -> None:
    core = searching.core
    other = core.submit()
    search_id = searching.run()
    waiting = searching.take(search_id, "a").job_id
    searching.steer("pause", search_id)
    assert core.job(waiting).state is JobState.PAUSED
    assert core.job(other).state is JobState.QUEUED
    assert searching.heard(search_id), "its driver leaves"

    searching.steer("resume", search_id)
    assert core.job(waiting).state is JobState.QUEUED
    assert searching.row(search_id).state is SearchState.QUEUED


def test_a_trial_that_stops_late_is_resumed_with_the_next_heartbeat(searching: Searching) -> None:
    core = searching.core
    search_id = searching.run()
    job_id = searching.take(search_id, "a").job_id
    attempt = core.start_next()
    core.report(attempt.attempt_id, 1)
    searching.steer("pause", search_id)
    searching.steer("resume", search_id)
    core.finish(attempt.attempt_id, Reason.PAUSED)
    assert core.job(job_id).state is JobState.PAUSED

    searching.driver_dies(search_id)
    searching.next_driver(search_id)
    core.clock.advance(10.0)
    searching.heard(search_id)
    assert core.job(job_id).state is JobState.QUEUED


def test_a_trial_that_somebody_paused_stays_so(searching: Searching) -> None:
    search_id = searching.run()
    job_id = searching.take(search_id, "a").job_id
    searching.core.command("pause", job_id)
    searching.steer("pause", search_id)
    searching.steer("resume", search_id)
    assert searching.core.job(job_id).state is JobState.PAUSED


def test_time_in_pauses_is_no_wall_time(searching: Searching) -> None:
    clock = searching.core.clock
    search_id = searching.run()
    clock.advance(10.0)
    searching.steer("pause", search_id)
    clock.advance(1000.0)
    searching.steer("resume", search_id)
    searching.driver_dies(search_id)
    searching.next_driver(search_id)
    clock.advance(5.0)
    assert searching.standing(search_id).wall_seconds == 15.0


def test_a_cancelled_search_cancels_its_trials(searching: Searching) -> None:
    search_id = searching.run()
    job_id = searching.take(search_id, "a").job_id
    searching.steer("cancel", search_id)
    assert searching.core.job(job_id).state is JobState.CANCELLED
    row = searching.row(search_id)
    assert (row.state, row.end_reason) == (SearchState.CANCELLED, SearchEndReason.CANCELLED)
    searching.steer("cancel", search_id)
    with pytest.raises(IllegalTransition):
        searching.steer("resume", search_id)


def test_a_search_that_has_succeeded_goes_on_when_it_is_extended(searching: Searching) -> None:
    search_id = searching.run(budget={"trials": 1})
    searching.take(search_id, "a")
    searching.train(5.0)
    searching.finish(search_id)
    assert searching.row(search_id).state is SearchState.SUCCEEDED

    searching.steer("extend", search_id, {"trials": 2})
    searching.driver_dies(search_id)
    config = searching.next_driver(search_id)
    assert config.spec.trials == 2
    assert config.known_params == [{"recipe.learning_rate": 0.1}]


def test_a_running_search_goes_on_under_another_driver_when_it_is_extended(
    searching: Searching,
) -> None:
    search_id = searching.run()
    searching.steer("extend", search_id, {"trials": 9})
    assert searching.heard(search_id)
    searching.driver_dies(search_id)
    assert searching.next_driver(search_id).spec.trials == 9
    assert searching.row(search_id).driver_failures == 0


def test_a_repeated_extension_changes_nothing_and_none_is_a_cut(searching: Searching) -> None:
    search_id = searching.run()
    searching.steer("extend", search_id, {"trials": 9})
    searching.steer("extend", search_id, {"trials": 9})
    with pytest.raises(InvalidInput) as refused:
        searching.steer("extend", search_id, {"trials": 8})
    assert refused.value.field_errors[0].pointer == "/trials"


def test_the_priority_of_a_search_is_that_of_its_trials(searching: Searching) -> None:
    search_id = searching.run()
    first = searching.take(search_id, "a").job_id
    searching.steer("change_priority", search_id, 80)
    second = searching.take(search_id, "b", 0.2).job_id
    assert [searching.core.job(one).priority for one in (first, second)] == [80, 80]


def test_a_search_is_deleted_with_its_trials_once_it_has_ended(searching: Searching) -> None:
    core = searching.core
    search_id = searching.run()
    job_id = searching.take(search_id, "a").job_id
    with pytest.raises(Conflict, match="cancel it first"):
        searching.steer_delete(search_id)
    searching.steer("cancel", search_id)
    with pytest.raises(Conflict, match="has not exited yet"):
        searching.steer_delete(search_id)
    searching.driver_dies(search_id)
    with core.database.transaction() as session, pytest.raises(Conflict, match=search_id):
        retention.delete_job(session, job_id)

    searching.steer_delete(search_id)
    with pytest.raises(NotFound):
        searching.row(search_id)
    with pytest.raises(NotFound):
        core.job(job_id)


def test_events_tell_what_happened_in_order(searching: Searching) -> None:
    search_id = searching.run()
    searching.take(search_id, "a")
    searching.steer("cancel", search_id)
    with searching.core.database.reading() as session:
        search = records.find_search(session, search_id)
        found = events.list_events_after(session, search, 0, limit=100)
    assert [event.number for event in found] == list(range(1, len(found) + 1))
    assert [event.kind for event in found] == ["submitted", "state", "driver", "trial", "state"]


def test_a_spec_that_was_never_parsed_is_checked_when_it_is_submitted(
    searching: Searching,
) -> None:
    spec = search_spec.SearchSpec.model_validate(search_body(space={"depth": {"choice": [9]}}))
    with searching.core.database.transaction() as session, pytest.raises(InvalidInput):
        submission.submit(session, spec, user="ann", now=searching.core.clock.now)
