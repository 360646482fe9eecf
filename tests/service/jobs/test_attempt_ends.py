"""How attempts end, and what becomes of the job: retries, faults, stops, time limits."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import ResnetdError, StaleAttempt
from service.execution import attempts
from service.jobs import lifecycle
from service.scheduling.leases import Claim
from service.states import AttemptState, Blame, JobState, Reason, StopReason
from tests.support.core import Core, job_id_of


def test_a_completed_attempt_makes_its_job_succeed(core: Core) -> None:
    claimed = core.run()
    assert core.finish(claimed.attempt_id) is JobState.SUCCEEDED
    job = core.job(job_id_of(claimed))
    assert job.reason is Reason.COMPLETED
    assert job.finished_at == core.clock.now


def test_a_repeated_finish_changes_nothing(core: Core) -> None:
    claimed = core.run()
    core.finish(claimed.attempt_id)
    told = len(core.events(job_id_of(claimed)))
    assert core.finish(claimed.attempt_id) is JobState.SUCCEEDED
    assert len(core.events(job_id_of(claimed))) == told


def test_an_end_is_not_told_in_two_ways(core: Core) -> None:
    claimed = core.run()
    core.finish(claimed.attempt_id)
    with pytest.raises(StaleAttempt, match="completed"):
        core.finish(claimed.attempt_id, Reason.DIVERGED)
    assert core.job(job_id_of(claimed)).state is JobState.SUCCEEDED


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.is_retryable])
def test_what_may_end_differently_is_tried_again(core: Core, reason: Reason) -> None:
    claimed = core.run()
    core.end(claimed, reason)
    job = core.job(job_id_of(claimed))
    assert job.state is JobState.QUEUED
    assert job.reason is reason
    assert (job.restarts, job.infra_restarts) == ((1, 0) if reason.blame is Blame.USER else (0, 1))
    assert core.retry().attempt_id == f"{job.id}-a2"


@pytest.mark.parametrize("reason", [Reason.TIME_LIMIT, Reason.DATASET_MISSING, Reason.DIVERGED])
def test_what_would_end_the_same_way_fails_the_job(core: Core, reason: Reason) -> None:
    claimed = core.run(max_restarts=5)
    assert core.finish(claimed.attempt_id, reason) is JobState.FAILED
    assert core.job(job_id_of(claimed)).reason is reason


def test_the_users_faults_are_bounded_by_max_restarts(core: Core) -> None:
    claimed = core.run(max_restarts=1)
    core.end(claimed, Reason.OUT_OF_MEMORY)
    again = core.retry()
    core.end(again, Reason.TRAINING_ERROR)
    job = core.job(job_id_of(claimed))
    assert job.state is JobState.FAILED
    assert job.restarts == 2


def test_a_job_without_restarts_survives_the_clusters_faults(core: Core) -> None:
    claimed = core.run(max_restarts=0)
    for reason in (Reason.WORKER_DIED, Reason.CLUSTER_LOST, Reason.INTERNAL):
        core.end(claimed, reason)
        claimed = core.retry()
    assert core.finish(claimed.attempt_id) is JobState.SUCCEEDED


def test_a_cluster_that_breaks_every_attempt_does_not_spin_for_ever(core: Core) -> None:
    claimed = core.start()
    for _ in range(lifecycle.MAX_INFRA_RESTARTS):
        core.end(claimed, Reason.CLUSTER_LOST)
        core.clock.advance(60.0)
        core.release(claimed)
        claimed = core.start_next()
    core.end(claimed, Reason.CLUSTER_LOST)
    assert core.job(job_id_of(claimed)).state is JobState.FAILED


def test_each_retry_waits_longer_up_to_a_minute(core: Core) -> None:
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
    # Not all jobs that one fault has ended come back at once.
    assert len({seconds / most for seconds, most in zip(waited, longest, strict=True)}) > 1


@pytest.mark.parametrize("reason", [Reason.CANCELLED, Reason.WORKER_DIED, Reason.DIVERGED])
def test_a_cancelled_job_is_not_tried_again(core: Core, reason: Reason) -> None:
    claimed = core.run()
    core.cancel(job_id_of(claimed))
    core.end(claimed, reason)
    assert core.job(job_id_of(claimed)).state is JobState.CANCELLED


def test_a_job_that_completes_before_the_cancel_reaches_it_has_succeeded(core: Core) -> None:
    claimed = core.run()
    core.cancel(job_id_of(claimed))
    assert core.finish(claimed.attempt_id) is JobState.SUCCEEDED


def test_a_cancelled_attempt_is_told_to_stop_with_every_report(core: Core) -> None:
    claimed = core.run()
    assert core.report(claimed.attempt_id, 2).stop_reason is None
    core.cancel(job_id_of(claimed))
    assert core.report(claimed.attempt_id, 2).stop_reason is StopReason.CANCEL
    assert core.report(claimed.attempt_id, 3).stop_reason is StopReason.CANCEL


def test_an_attempt_over_its_time_is_told_to_stop(core: Core) -> None:
    claimed = core.run(time_limit_minutes=10)
    core.clock.advance(600.0)
    assert core.report(claimed.attempt_id, 2).stop_reason is None
    core.clock.advance(1.0)
    assert core.report(claimed.attempt_id, 3).stop_reason is StopReason.TIME_LIMIT


def test_the_time_limit_counts_training_and_not_waiting(core: Core) -> None:
    claimed = core.start(time_limit_minutes=10)
    core.clock.advance(3600.0)
    assert core.report(claimed.attempt_id, 1).stop_reason is None


def _walk(core: Core, job_id: str, claimed: Claim | None, step: str) -> Claim | None:
    """One thing that somebody does to the job, whether it may or not."""
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
def test_whatever_happens_job_and_attempts_agree(core: Core, steps: list[str]) -> None:
    core.record_cluster(cpus=1000)
    job_id = core.submit(priority=100)
    claimed: Claim | None = None
    for step in steps:
        try:
            claimed = _walk(core, job_id, claimed, step)
        except ResnetdError:
            continue
        finally:
            _agree(core, job_id)
    if not core.job(job_id).state.is_final:
        core.cancel(job_id)
        if claimed is not None:
            core.end(claimed, Reason.CANCELLED)
    assert core.job(job_id).state.is_final


def _agree(core: Core, job_id: str) -> None:
    job = core.job(job_id)
    with core.database.reading() as session:
        known = attempts.list_attempts(session, job_id)
    living = [attempt for attempt in known if attempt.state is not AttemptState.ENDED]
    assert [attempt.number for attempt in known] == list(range(1, job.attempts + 1))
    if job.state in (JobState.STARTING, JobState.RUNNING):
        assert [attempt.state.value for attempt in living] == [job.state.value]
        assert living[0] is known[-1]
    else:
        assert living == []
    moves = [event.data for event in core.events(job_id) if event.kind == "state"]
    assert [move["from"] for move in moves] == ["queued", *(move["to"] for move in moves)][:-1]
