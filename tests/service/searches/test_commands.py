"""Commands on a search: pause, resume, cancel, extend, change its priority, delete."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from service.errors import (
    Conflict,
    IllegalTransition,
    InvalidInput,
    NotFound,
)
from service.jobs import commands as job_commands
from service.jobs import retention
from service.states import JobState, Reason, SearchEndReason, SearchState
from tests.support.locks import wait_for_blocked_transaction
from tests.support.searching import Searching


def test_pausing_a_search_pauses_its_trials_and_no_other_job(searching: Searching) -> None:
    core = searching.core
    other = core.submit()
    search_id = searching.run()
    waiting = searching.assign_trial(search_id, "a").job_id
    searching.command("pause", search_id)
    assert core.job(waiting).state is JobState.PAUSED
    assert core.job(other).state is JobState.QUEUED
    assert searching.record_heartbeat(search_id), "its driver leaves"

    searching.command("resume", search_id)
    assert core.job(waiting).state is JobState.QUEUED
    assert searching.row(search_id).state is SearchState.QUEUED


def test_a_trial_that_stops_late_is_resumed_with_the_next_heartbeat(searching: Searching) -> None:
    core = searching.core
    search_id = searching.run()
    job_id = searching.assign_trial(search_id, "a").job_id
    attempt = core.start_next()
    core.report(attempt.attempt_id, 1)
    searching.command("pause", search_id)
    searching.command("resume", search_id)
    core.finish(attempt.attempt_id, Reason.PAUSED)
    assert core.job(job_id).state is JobState.PAUSED

    searching.terminate_driver(search_id)
    searching.start_next_driver(search_id)
    core.clock.advance(10.0)
    searching.record_heartbeat(search_id)
    assert core.job(job_id).state is JobState.QUEUED


@pytest.mark.parametrize(
    ("name", "arguments"), [("change_priority", (7,)), ("resume", ()), ("pause", ())]
)
def test_a_command_succeeds_while_a_trial_ends(
    searching: Searching, name: str, arguments: tuple[int, ...]
) -> None:
    core = searching.core
    if core.database.is_sqlite:
        pytest.skip("its transactions come one after the other")
    search_id = searching.run()
    job_id = searching.assign_trial(search_id, "a").job_id
    if name == "resume":
        searching.command("pause", search_id)
    with ThreadPoolExecutor() as pool:
        with core.database.transaction() as session:
            job_commands.cancel(session, job_id, now=core.clock.now)
            session.flush()
            command = pool.submit(searching.command, name, search_id, *arguments)
            wait_for_blocked_transaction(core.database)
        command.result()
    assert core.job(job_id).state is JobState.CANCELLED


def test_a_trial_that_a_user_paused_is_not_resumed_with_its_search(searching: Searching) -> None:
    search_id = searching.run()
    job_id = searching.assign_trial(search_id, "a").job_id
    searching.core.command("pause", job_id)
    searching.command("pause", search_id)
    searching.command("resume", search_id)
    assert searching.core.job(job_id).state is JobState.PAUSED


def test_pauses_do_not_count_as_wall_time(searching: Searching) -> None:
    clock = searching.core.clock
    search_id = searching.run()
    clock.advance(10.0)
    searching.command("pause", search_id)
    clock.advance(1000.0)
    searching.command("resume", search_id)
    searching.terminate_driver(search_id)
    searching.start_next_driver(search_id)
    clock.advance(5.0)
    assert searching.read_progress(search_id).wall_seconds == 15.0


def test_cancelling_a_search_cancels_its_trials(searching: Searching) -> None:
    search_id = searching.run()
    job_id = searching.assign_trial(search_id, "a").job_id
    searching.command("cancel", search_id)
    assert searching.core.job(job_id).state is JobState.CANCELLED
    row = searching.row(search_id)
    assert (row.state, row.end_reason) == (SearchState.CANCELLED, SearchEndReason.CANCELLED)
    searching.command("cancel", search_id)
    with pytest.raises(IllegalTransition):
        searching.command("resume", search_id)


def test_a_succeeded_search_continues_when_it_is_extended(searching: Searching) -> None:
    search_id = searching.run(budget={"trials": 1})
    searching.assign_trial(search_id, "a")
    searching.train(5.0)
    searching.finish_driver(search_id)
    assert searching.row(search_id).state is SearchState.SUCCEEDED

    searching.command("extend", search_id, {"trials": 2})
    searching.terminate_driver(search_id)
    config = searching.start_next_driver(search_id)
    assert config.spec.trials == 2
    assert config.known_params == [{"recipe.learning_rate": 0.1}]


def test_a_running_search_gets_a_new_driver_when_it_is_extended(searching: Searching) -> None:
    search_id = searching.run()
    searching.command("extend", search_id, {"trials": 9})
    assert searching.record_heartbeat(search_id)
    searching.terminate_driver(search_id)
    assert searching.start_next_driver(search_id).spec.trials == 9
    assert searching.row(search_id).driver_failures == 0


def test_a_repeated_extension_changes_nothing_and_a_smaller_budget_is_refused(
    searching: Searching,
) -> None:
    search_id = searching.run()
    searching.command("extend", search_id, {"trials": 9})
    searching.command("extend", search_id, {"trials": 9})
    with pytest.raises(InvalidInput) as refused:
        searching.command("extend", search_id, {"trials": 8})
    assert refused.value.field_errors[0].pointer == "/trials"


def test_the_priority_of_a_search_is_that_of_its_trials(searching: Searching) -> None:
    search_id = searching.run()
    first = searching.assign_trial(search_id, "a").job_id
    searching.command("change_priority", search_id, 80)
    second = searching.assign_trial(search_id, "b", 0.2).job_id
    assert [searching.core.job(job_id).priority for job_id in (first, second)] == [80, 80]


def test_a_final_search_is_deleted_with_its_trials(searching: Searching) -> None:
    core = searching.core
    search_id = searching.run()
    job_id = searching.assign_trial(search_id, "a").job_id
    with pytest.raises(Conflict, match="cancel it first"):
        searching.delete(search_id)
    searching.command("cancel", search_id)
    with pytest.raises(Conflict, match="has not exited yet"):
        searching.delete(search_id)
    searching.terminate_driver(search_id)
    with core.database.transaction() as session, pytest.raises(Conflict, match=search_id):
        retention.delete_job(session, job_id)

    searching.delete(search_id)
    with pytest.raises(NotFound):
        searching.row(search_id)
    with pytest.raises(NotFound):
        core.job(job_id)
