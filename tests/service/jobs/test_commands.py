"""Commands on a job: hold, release, pause, resume, cancel, kill, stop early."""

import pytest

from service.errors import IllegalTransition
from service.states import AttemptState, JobState, Reason, StopReason
from tests.support.core import Core, job_id_of, note

COMMANDS = ("hold", "release", "pause", "resume", "cancel", "kill")


@pytest.mark.parametrize(("stop", "restart"), [("hold", "release"), ("pause", "resume")])
def test_a_held_or_paused_job_does_not_start_and_keeps_its_place(
    core: Core, stop: str, restart: str
) -> None:
    core.record_cluster(cpus=1)
    first, second = core.submit(), core.submit()
    core.command(stop, first)
    claimed = core.claim()
    assert job_id_of(claimed) == second
    core.command(restart, first)
    third = core.submit()
    core.end(claimed, Reason.DIVERGED)
    core.release(claimed)
    assert job_id_of(core.claim()) == first
    assert core.job(third).state is JobState.QUEUED


def test_a_paused_job_frees_its_workers_and_continues_from_its_checkpoint(core: Core) -> None:
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


def test_a_pausing_job_whose_worker_dies_is_paused(core: Core) -> None:
    claimed = core.run()
    core.command("pause", job_id_of(claimed))
    core.end(claimed, Reason.WORKER_DIED)
    job = core.job(job_id_of(claimed))
    assert (job.state, job.reason, job.infra_restarts) == (JobState.PAUSED, Reason.PAUSED, 1)


def test_a_pausing_job_that_diverges_fails(core: Core) -> None:
    claimed = core.run()
    core.command("pause", job_id_of(claimed))
    assert core.finish(claimed.attempt_id, Reason.DIVERGED) is JobState.FAILED


def test_a_waiting_job_is_cancelled_at_once(core: Core) -> None:
    job_id = core.submit()
    assert core.cancel(job_id) is JobState.CANCELLED
    job = core.job(job_id)
    assert job.reason is Reason.CANCELLED
    assert job.finished_at == core.clock.now
    assert core.try_claim() is None


def test_cancelling_a_starting_job_requests_a_stop(core: Core) -> None:
    job_id = job_id_of(core.start())
    assert core.cancel(job_id) is JobState.STARTING
    assert core.job(job_id).stop_requested_at == core.clock.now


def test_cancelling_a_running_job_requests_a_stop(core: Core) -> None:
    job_id = job_id_of(core.run())
    assert core.cancel(job_id) is JobState.RUNNING
    assert core.events(job_id)[-1].kind == "stop-requested"


def test_a_repeated_cancel_changes_nothing(core: Core) -> None:
    running, waiting = job_id_of(core.run()), core.submit()
    for job_id in (running, waiting):
        core.cancel(job_id)
        count = len(core.events(job_id))
        core.cancel(job_id)
        assert len(core.events(job_id)) == count


@pytest.mark.parametrize("reason", [Reason.COMPLETED, Reason.DIVERGED])
def test_a_job_that_has_ended_cannot_be_cancelled(core: Core, reason: Reason) -> None:
    claimed = core.run()
    ended = core.finish(claimed.attempt_id, reason)
    with pytest.raises(IllegalTransition, match=str(ended)):
        core.cancel(job_id_of(claimed))


def test_a_cancel_replaces_a_pause_but_a_pause_replaces_no_cancel(core: Core) -> None:
    claimed = core.run()
    job_id = job_id_of(claimed)
    core.command("pause", job_id)
    core.command("cancel", job_id)
    with pytest.raises(IllegalTransition, match="being cancelled"):
        core.command("pause", job_id)
    assert core.finish(claimed.attempt_id, Reason.CANCELLED) is JobState.CANCELLED


def test_a_killed_job_ends_at_once_with_its_attempt(core: Core) -> None:
    claimed = core.run()
    assert core.command("kill", job_id_of(claimed)).state is JobState.CANCELLED
    attempt = core.attempt(claimed.attempt_id)
    assert (attempt.state, attempt.reason) == (AttemptState.ENDED, Reason.KILLED)
    assert attempt.released_at is None, "the workers exit later"


def test_a_waiting_job_can_be_killed(core: Core) -> None:
    assert core.command("kill", core.submit()).reason is Reason.KILLED


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_applies_to_a_succeeded_job(core: Core, command: str) -> None:
    claimed = core.run()
    core.finish(claimed.attempt_id)
    with pytest.raises(IllegalTransition):
        core.command(command, job_id_of(claimed))


@pytest.mark.parametrize("command", ["hold", "release", "resume"])
def test_a_running_job_cannot_be_held_released_or_resumed(core: Core, command: str) -> None:
    with pytest.raises(IllegalTransition):
        core.command(command, job_id_of(core.run()))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_repeated_command_changes_nothing(core: Core, command: str) -> None:
    job_id = core.submit()
    before = {"release": "hold", "resume": "pause"}
    if command in before:
        core.command(before[command], job_id)
    core.command(command, job_id)
    count = len(core.events(job_id))
    core.command(command, job_id)
    assert len(core.events(job_id)) == count


def test_a_job_that_is_stopped_early_can_be_cancelled_but_not_paused(core: Core) -> None:
    job_id = job_id_of(core.run())
    assert core.stop_early(job_id)
    assert not core.stop_early(job_id)
    with pytest.raises(IllegalTransition):
        core.command("pause", job_id)
    assert core.command("cancel", job_id).stop_requested is StopReason.CANCEL


def test_a_job_that_is_stopped_early_is_not_retried(core: Core) -> None:
    claimed = core.run()
    core.stop_early(job_id_of(claimed))
    assert core.finish(claimed.attempt_id, Reason.WORKER_DIED) is JobState.CANCELLED
    assert core.job(job_id_of(claimed)).reason is Reason.EARLY_STOPPED


def test_a_job_that_has_ended_is_not_stopped_early(core: Core) -> None:
    claimed = core.run()
    core.finish(claimed.attempt_id)
    assert not core.stop_early(job_id_of(claimed))
