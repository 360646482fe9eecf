"""The lifecycle of a job: transitions, dependents, and what follows the end of an attempt."""

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import (
    IllegalTransition,
    ResnetdError,
    StaleAttempt,
)
from service.execution import attempts
from service.jobs import lifecycle, submission
from service.scheduling.leases import Claim
from service.specs.protocol import MetricPoint
from service.states import NEXT_STATES, AttemptState, Blame, JobState, Reason, StopReason
from tests.support.core import NO_DATA, Core, job_id_of, make_point, spec


@pytest.mark.parametrize("state", JobState)
def test_only_the_next_states_of_a_state_are_allowed(core: Core, state: JobState) -> None:
    job_id = core.submit()
    for wanted in JobState:
        with core.database.transaction() as session:
            job = lifecycle.lock_job(session, job_id)
            job.state = state
            if wanted in NEXT_STATES[state]:
                lifecycle.transition(session, job, wanted, now=core.clock.now)
                assert job.state is wanted
                continue
            with pytest.raises(IllegalTransition):
                lifecycle.transition(session, job, wanted, now=core.clock.now)
            assert job.state is state


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choices=st.lists(st.sampled_from(JobState), max_size=12))
def test_each_transition_has_its_event(core: Core, choices: list[JobState]) -> None:
    job_id = core.submit()
    visited = [JobState.QUEUED]
    for wanted in choices:
        core.clock.advance(1.0)
        with core.database.transaction() as session:
            job = lifecycle.lock_job(session, job_id)
            try:
                lifecycle.transition(session, job, wanted, now=core.clock.now)
            except IllegalTransition:
                assert wanted not in NEXT_STATES[visited[-1]]
            else:
                visited.append(wanted)
    recorded = core.events(job_id)
    assert [event.number for event in recorded] == list(range(1, len(recorded) + 1))
    assert [event.data["to"] for event in recorded[1:]] == visited[1:]
    job = core.job(job_id)
    assert job.state is visited[-1]
    assert (job.finished_at is not None) == job.state.is_final
    assert (job.started_at is not None) == (JobState.RUNNING in visited)


def _after(*job_ids: str, condition: str = "ok") -> list[dict[str, str]]:
    return [{"job": job_id, "condition": condition} for job_id in job_ids]


def test_a_job_is_blocked_until_all_its_dependencies_have_succeeded(core: Core) -> None:
    first, second = core.run(), core.run()
    waiting = core.submit(after=[job_id_of(first), job_id_of(second)])
    assert core.job(waiting).state is JobState.BLOCKED
    core.finish(first.attempt_id)
    assert core.job(waiting).state is JobState.BLOCKED
    core.finish(second.attempt_id)
    assert core.job(waiting).state is JobState.QUEUED


def test_a_failed_job_cancels_its_dependents_and_theirs(core: Core) -> None:
    failing = core.run()
    chain = [core.submit(after=[job_id_of(failing)])]
    for _ in range(2):
        chain.append(core.submit(after=[chain[-1]]))
    core.finish(failing.attempt_id, Reason.DIVERGED)
    for job_id, needed in zip(chain, [job_id_of(failing), *chain], strict=False):
        job = core.job(job_id)
        assert (job.state, job.reason) == (JobState.CANCELLED, Reason.DEPENDENCY_FAILED)
        assert needed in (job.message or "")


def test_a_dependent_with_condition_any_is_queued_after_a_failure(core: Core) -> None:
    failing = core.run()
    waiting = core.submit(after=_after(job_id_of(failing), condition="any"))
    core.finish(failing.attempt_id, Reason.DIVERGED)
    assert core.job(waiting).state is JobState.QUEUED


def test_a_held_job_with_a_running_dependency_is_blocked_once_released(core: Core) -> None:
    needed = core.run()
    waiting = core.submit(after=[job_id_of(needed)], hold=True)
    core.command("release", waiting)
    assert core.job(waiting).state is JobState.BLOCKED
    core.command("hold", waiting)
    core.finish(needed.attempt_id)
    assert core.job(waiting).state is JobState.HELD
    core.command("release", waiting)
    assert core.job(waiting).state is JobState.QUEUED


def test_a_chain_of_300_dependents_is_cancelled(core: Core) -> None:
    written = [spec()] + [spec(after=[f"#{number}"]) for number in range(299)]
    with core.database.transaction() as session:
        made = submission.submit_batch(
            session, written, user="ann", data_dir=NO_DATA, now=core.clock.now
        )
    core.cancel(made[0].row.id)
    assert core.job(made[-1].row.id).reason is Reason.DEPENDENCY_FAILED


def test_a_dependency_that_ends_during_the_submission_leaves_no_job_blocked(core: Core) -> None:
    core.record_cluster(cpus=64)
    needed = [core.run() for _ in range(10)]
    together = threading.Barrier(2)

    def finish_all() -> None:
        together.wait()
        for claimed in needed:
            core.finish(claimed.attempt_id)

    finishing = threading.Thread(target=finish_all)
    finishing.start()
    together.wait()
    waiting = [core.submit(after=[job_id_of(claimed)]) for claimed in needed]
    finishing.join()
    assert {core.job(job_id).state for job_id in waiting} == {JobState.QUEUED}


@pytest.mark.parametrize("reason", [Reason.COMPLETED, Reason.BUDGET_REACHED])
def test_a_job_succeeds_when_its_attempt_ends_as_its_recipe_says(
    core: Core, reason: Reason
) -> None:
    claimed = core.run()
    assert core.finish(claimed.attempt_id, reason) is JobState.SUCCEEDED
    job = core.job(job_id_of(claimed))
    assert job.reason is reason
    assert job.finished_at == core.clock.now


def test_a_repeated_finish_changes_nothing(core: Core) -> None:
    claimed = core.run()
    core.finish(claimed.attempt_id)
    count = len(core.events(job_id_of(claimed)))
    assert core.finish(claimed.attempt_id) is JobState.SUCCEEDED
    assert len(core.events(job_id_of(claimed))) == count


def test_an_ended_attempt_cannot_finish_for_another_reason(core: Core) -> None:
    claimed = core.run()
    core.finish(claimed.attempt_id)
    with pytest.raises(StaleAttempt, match="completed"):
        core.finish(claimed.attempt_id, Reason.DIVERGED)
    assert core.job(job_id_of(claimed)).state is JobState.SUCCEEDED


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.is_retryable])
def test_a_job_is_retried_after_a_retryable_reason(core: Core, reason: Reason) -> None:
    claimed = core.run()
    core.end(claimed, reason)
    job = core.job(job_id_of(claimed))
    assert job.state is JobState.QUEUED
    assert job.reason is reason
    assert (job.restarts, job.infra_restarts) == ((1, 0) if reason.blame is Blame.USER else (0, 1))
    assert core.retry().attempt_id == f"{job.id}-a2"


@pytest.mark.parametrize("reason", [Reason.TIME_LIMIT, Reason.DATASET_MISSING, Reason.DIVERGED])
def test_a_job_fails_after_a_reason_that_is_not_retryable(core: Core, reason: Reason) -> None:
    claimed = core.run(max_restarts=5)
    assert core.finish(claimed.attempt_id, reason) is JobState.FAILED
    assert core.job(job_id_of(claimed)).reason is reason


def test_max_restarts_limits_failures_by_the_user(core: Core) -> None:
    claimed = core.run(max_restarts=1)
    core.end(claimed, Reason.OUT_OF_MEMORY)
    again = core.retry()
    core.end(again, Reason.TRAINING_ERROR)
    job = core.job(job_id_of(claimed))
    assert job.state is JobState.FAILED
    assert job.restarts == 2


def test_infrastructure_failures_do_not_count_against_max_restarts(core: Core) -> None:
    claimed = core.run(max_restarts=0)
    for reason in (Reason.WORKER_DIED, Reason.CLUSTER_LOST, Reason.INTERNAL):
        core.end(claimed, reason)
        claimed = core.retry()
    assert core.finish(claimed.attempt_id) is JobState.SUCCEEDED


def test_a_job_fails_after_max_infra_restarts(core: Core) -> None:
    claimed = core.start()
    for _ in range(lifecycle.MAX_INFRA_RESTARTS):
        core.end(claimed, Reason.CLUSTER_LOST)
        core.clock.advance(60.0)
        core.release(claimed)
        claimed = core.start_next()
    core.end(claimed, Reason.CLUSTER_LOST)
    assert core.job(job_id_of(claimed)).state is JobState.FAILED


def test_the_backoff_doubles_up_to_a_minute_with_jitter(core: Core) -> None:
    claimed = core.start()
    waited = []
    for _ in range(8):
        core.end(claimed, Reason.CLUSTER_LOST)
        core.release(claimed)
        not_before = core.job(job_id_of(claimed)).not_before
        assert not_before is not None
        waited.append((not_before - core.clock.now).total_seconds())
        core.clock.advance(60.0)
        claimed = core.start_next()
    longest = [1, 2, 4, 8, 16, 32, 60, 60]
    assert all(most / 2 <= seconds <= most for seconds, most in zip(waited, longest, strict=True))
    # Jobs that ended together are not retried together.
    assert len({seconds / most for seconds, most in zip(waited, longest, strict=True)}) > 1


@pytest.mark.parametrize("reason", [Reason.CANCELLED, Reason.WORKER_DIED, Reason.DIVERGED])
def test_a_job_that_is_being_cancelled_is_not_retried(core: Core, reason: Reason) -> None:
    claimed = core.run()
    core.cancel(job_id_of(claimed))
    core.end(claimed, reason)
    job = core.job(job_id_of(claimed))
    assert (job.state, job.reason) == (JobState.CANCELLED, Reason.CANCELLED)
    assert core.attempt(claimed.attempt_id).reason is reason


def test_a_job_that_completes_before_it_stops_has_succeeded(core: Core) -> None:
    claimed = core.run()
    core.cancel(job_id_of(claimed))
    assert core.finish(claimed.attempt_id) is JobState.SUCCEEDED


def test_every_report_of_a_cancelled_job_is_answered_with_the_stop(core: Core) -> None:
    claimed = core.run()
    assert core.report(claimed.attempt_id, 2).stop_reason is None
    core.cancel(job_id_of(claimed))
    assert core.report(claimed.attempt_id, 2).stop_reason is StopReason.CANCEL
    assert core.report(claimed.attempt_id, 3).stop_reason is StopReason.CANCEL


def test_an_attempt_over_its_time_limit_is_asked_to_stop(core: Core) -> None:
    claimed = core.run(time_limit_minutes=10)
    core.clock.advance(600.0)
    assert core.report(claimed.attempt_id, 2).stop_reason is None
    core.clock.advance(1.0)
    assert core.report(claimed.attempt_id, 3).stop_reason is StopReason.TIME_LIMIT


def test_the_time_limit_counts_the_training_of_all_attempts(core: Core) -> None:
    claimed = core.run(time_limit_minutes=1)
    job_id = job_id_of(claimed)
    core.clock.advance(50.0)
    core.command("pause", job_id)
    core.finish(claimed.attempt_id, Reason.PAUSED)
    core.release(claimed)
    core.clock.advance(3600.0)
    core.command("resume", job_id)
    again = core.start_next()
    core.report(again.attempt_id, 1)
    core.clock.advance(9.0)
    assert core.report(again.attempt_id, 2).stop_reason is None
    core.clock.advance(2.0)
    assert core.report(again.attempt_id, 3).stop_reason is StopReason.TIME_LIMIT


def test_the_time_limit_starts_with_the_training(core: Core) -> None:
    claimed = core.start(time_limit_minutes=10)
    core.clock.advance(3600.0)
    assert core.report(claimed.attempt_id, 1).stop_reason is None


def _points(iteration: int) -> list[MetricPoint]:
    return [make_point(series="train/loss", iteration=iteration, value=0.5)]


def test_a_job_that_fails_three_times_at_one_iteration_is_held(core: Core) -> None:
    claimed = core.run()
    for number in range(1, 4):
        core.report(claimed.attempt_id, 2, metrics=_points(437))
        core.end(claimed, Reason.WORKER_DIED)
        core.release(claimed)
        if number < 3:
            assert core.job(job_id_of(claimed)).state is JobState.QUEUED
            claimed = core.retry()
    job = core.job(job_id_of(claimed))
    assert (job.state, job.reason) == (JobState.HELD, Reason.WORKER_DIED)
    assert job.message is not None
    assert job.message.startswith("3 attempts in a row failed at iteration 437")


def test_a_job_that_fails_at_different_iterations_is_retried(core: Core) -> None:
    claimed = core.run()
    for iteration in (437, 437, 438, 437, 437):
        core.report(claimed.attempt_id, 2, metrics=_points(iteration))
        core.end(claimed, Reason.WORKER_DIED)
        core.release(claimed)
        claimed = core.retry()


def test_attempts_that_the_cluster_loses_do_not_hold_the_job(core: Core) -> None:
    claimed = core.run()
    for _ in range(4):
        core.end(claimed, Reason.CLUSTER_LOST)
        core.release(claimed)
        claimed = core.retry()


def _step(core: Core, job_id: str, claimed: Claim | None, step: str) -> Claim | None:
    """Tries one step, which the state may not allow."""
    if step == "cancel":
        core.cancel(job_id)
    elif step == "claim":
        core.clock.advance(60.0)
        return core.try_claim() or claimed
    elif claimed is None:
        return None
    elif step == "report":
        core.report(
            claimed.attempt_id, core.attempt(claimed.attempt_id).last_sequence + 1, checkpoints=[]
        )
    elif step == "complete":
        core.finish(claimed.attempt_id)
    elif step == "diverge":
        core.finish(claimed.attempt_id, Reason.DIVERGED)
    else:
        core.end(claimed, Reason.WORKER_DIED)
    return claimed


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    steps=st.lists(
        st.sampled_from(["cancel", "claim", "report", "complete", "diverge", "die"]), max_size=15
    )
)
def test_job_and_attempts_stay_consistent_after_any_steps(core: Core, steps: list[str]) -> None:
    core.record_cluster(cpus=1000)
    job_id = core.submit(priority=100)
    claimed: Claim | None = None
    for step in steps:
        try:
            claimed = _step(core, job_id, claimed, step)
        except ResnetdError:
            continue
        finally:
            _check_consistency(core, job_id)
    if not core.job(job_id).state.is_final:
        core.cancel(job_id)
        if claimed is not None:
            core.end(claimed, Reason.CANCELLED)
    assert core.job(job_id).state.is_final


def _check_consistency(core: Core, job_id: str) -> None:
    job = core.job(job_id)
    with core.database.reading() as session:
        known = attempts.list_attempts(session, job_id)
    active = [attempt for attempt in known if attempt.state is not AttemptState.ENDED]
    assert [attempt.number for attempt in known] == list(range(1, job.attempts + 1))
    if job.state in (JobState.STARTING, JobState.RUNNING):
        assert [attempt.state.value for attempt in active] == [job.state.value]
        assert active[0] is known[-1]
    else:
        assert active == []
    transitions = [event.data for event in core.events(job_id) if event.kind == "state"]
    assert [transition["from"] for transition in transitions] == [
        "queued",
        *(transition["to"] for transition in transitions),
    ][:-1]
