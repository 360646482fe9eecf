"""What people ask of a job: hold, release, pause, resume, cancel, kill; poison."""

import pytest

from service.errors import IllegalTransition
from service.specs.protocol import MetricPoint
from service.states import AttemptState, JobState, Reason, StopReason
from tests.support.core import Core, job_id_of, note

VERBS = ("hold", "release", "pause", "resume", "cancel", "kill")


def _told(iteration: int) -> list[MetricPoint]:
    return [MetricPoint(series="train/loss", iteration=iteration, value=0.5)]


@pytest.mark.parametrize(("keep", "let_go"), [("hold", "release"), ("pause", "resume")])
def test_a_kept_job_does_not_start_and_keeps_its_place(core: Core, keep: str, let_go: str) -> None:
    core.record_cluster(cpus=1)
    first, second = core.submit(), core.submit()
    core.command(keep, first)
    claimed = core.claim()
    assert job_id_of(claimed) == second
    core.command(let_go, first)
    third = core.submit()
    core.end(claimed, Reason.DIVERGED)
    core.release(claimed)
    assert job_id_of(core.claim()) == first
    assert core.job(third).state is JobState.QUEUED


def test_a_job_may_be_submitted_held(core: Core) -> None:
    core.record_cluster(cpus=1)
    job_id = core.submit(hold=True)
    assert core.job(job_id).state is JobState.HELD
    assert core.try_claim() is None
    core.command("release", job_id)
    assert job_id_of(core.claim()) == job_id


def test_a_paused_job_frees_its_workers_and_goes_on_from_its_checkpoint(core: Core) -> None:
    claimed = core.run()
    job_id = job_id_of(claimed)
    assert core.command("pause", job_id).state is JobState.RUNNING
    assert (
        core.report(claimed.attempt_id, 2, checkpoints=[note(40)]).stop_reason is StopReason.PAUSE
    )
    assert core.finish(claimed.attempt_id, Reason.PAUSED) is JobState.PAUSED
    core.release(claimed)
    assert core.try_claim() is None
    core.command("resume", job_id)
    again = core.claim()
    assert core.attempt(again.attempt_id).first_iteration == 40
    job = core.job(job_id)
    assert (job.restarts, job.infra_restarts, job.stop_requested) == (0, 0, None)


def test_a_job_that_dies_while_it_should_pause_is_paused(core: Core) -> None:
    claimed = core.run()
    core.command("pause", job_id_of(claimed))
    core.end(claimed, Reason.WORKER_DIED)
    job = core.job(job_id_of(claimed))
    assert (job.state, job.infra_restarts) == (JobState.PAUSED, 1)


def test_a_job_that_diverges_while_it_should_pause_has_failed(core: Core) -> None:
    claimed = core.run()
    core.command("pause", job_id_of(claimed))
    assert core.finish(claimed.attempt_id, Reason.DIVERGED) is JobState.FAILED


def test_a_cancel_overrules_a_pause_and_not_the_other_way_round(core: Core) -> None:
    claimed = core.run()
    job_id = job_id_of(claimed)
    core.command("pause", job_id)
    core.command("cancel", job_id)
    with pytest.raises(IllegalTransition, match="being cancelled"):
        core.command("pause", job_id)
    assert core.finish(claimed.attempt_id, Reason.CANCELLED) is JobState.CANCELLED


def test_a_killed_job_has_ended_at_once_and_its_attempt_writes_no_more(core: Core) -> None:
    claimed = core.run()
    assert core.command("kill", job_id_of(claimed)).state is JobState.CANCELLED
    attempt = core.attempt(claimed.attempt_id)
    assert (attempt.state, attempt.reason) == (AttemptState.ENDED, Reason.KILLED)
    assert attempt.released_at is None, "only the cluster can give its workers back"


def test_a_waiting_job_is_killed_as_well(core: Core) -> None:
    assert core.command("kill", core.submit()).reason is Reason.KILLED


@pytest.mark.parametrize("verb", VERBS)
def test_a_job_that_has_succeeded_cannot_be_steered(core: Core, verb: str) -> None:
    claimed = core.run()
    core.finish(claimed.attempt_id)
    with pytest.raises(IllegalTransition):
        core.command(verb, job_id_of(claimed))


@pytest.mark.parametrize("verb", ["hold", "release", "resume"])
def test_a_running_job_is_neither_held_nor_released_nor_resumed(core: Core, verb: str) -> None:
    with pytest.raises(IllegalTransition):
        core.command(verb, job_id_of(core.run()))


@pytest.mark.parametrize("verb", VERBS)
def test_what_is_asked_again_changes_nothing(core: Core, verb: str) -> None:
    job_id = core.submit()
    before = {"release": "hold", "resume": "pause"}
    if verb in before:
        core.command(before[verb], job_id)
    core.command(verb, job_id)
    told = len(core.events(job_id))
    core.command(verb, job_id)
    assert len(core.events(job_id)) == told


def test_a_job_that_breaks_at_one_iteration_again_and_again_is_held_with_the_reason(
    core: Core,
) -> None:
    claimed = core.run()
    for attempts in range(1, 4):
        core.report(claimed.attempt_id, 2, metrics=_told(437))
        core.end(claimed, Reason.WORKER_DIED)
        core.release(claimed)
        if attempts < 3:
            assert core.job(job_id_of(claimed)).state is JobState.QUEUED
            claimed = core.retry()
    job = core.job(job_id_of(claimed))
    assert (job.state, job.reason) == (JobState.HELD, Reason.WORKER_DIED)
    assert job.message is not None
    assert job.message.startswith("3 attempts in a row failed at iteration 437")


def test_a_job_that_breaks_here_and_there_is_tried_again(core: Core) -> None:
    claimed = core.run()
    for iteration in (437, 437, 438, 437, 437):
        core.report(claimed.attempt_id, 2, metrics=_told(iteration))
        core.end(claimed, Reason.WORKER_DIED)
        core.release(claimed)
        claimed = core.retry()


def test_what_the_cluster_loses_is_not_poison(core: Core) -> None:
    claimed = core.run()
    for _ in range(4):
        core.end(claimed, Reason.CLUSTER_LOST)
        core.release(claimed)
        claimed = core.retry()


def test_a_job_that_its_search_stops_is_not_paused_but_can_be_cancelled(core: Core) -> None:
    job_id = job_id_of(core.run())
    assert core.stop_early(job_id)
    assert not core.stop_early(job_id)
    with pytest.raises(IllegalTransition):
        core.command("pause", job_id)
    assert core.command("cancel", job_id).stop_requested is StopReason.CANCEL


def test_a_job_that_its_search_stops_is_not_tried_again(core: Core) -> None:
    claimed = core.run()
    core.stop_early(job_id_of(claimed))
    assert core.finish(claimed.attempt_id, Reason.WORKER_DIED) is JobState.CANCELLED


def test_a_job_that_has_ended_is_not_stopped_early(core: Core) -> None:
    claimed = core.run()
    core.finish(claimed.attempt_id)
    assert not core.stop_early(job_id_of(claimed))
