"""Attempts that the dispatcher ends: silent ones, cancelled jobs, jobs over their time limit."""

import pytest

from service.settings import Settings
from service.states import AttemptState, JobState, RayJobState, Reason
from tests.support.cluster import (
    BACKOFF_SECONDS,
    FakeCluster,
    HealthEndpoint,
    Make,
    attempts_started,
    claim_only,
    later_round,
    leave,
    reserved_cpus,
    run,
    start,
)
from tests.support.core import Core, job_id_of, workers
from workers.cluster.ray_jobs import ClusterJobState
from workers.dispatcher.dispatcher import Dispatcher

# Silence


def test_the_runner_of_a_silent_attempt_is_stopped_and_the_job_retried(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, settings: Settings
) -> None:
    attempt_id = run(core, dispatcher)
    later_round(core, dispatcher, after_seconds=settings.heartbeat_timeout_seconds)
    assert core.attempt(attempt_id).state is AttemptState.RUNNING
    later_round(core, dispatcher)
    job = core.job(job_id_of(attempt_id))
    assert (job.state, job.reason) == (JobState.QUEUED, Reason.HEARTBEAT_TIMEOUT)
    assert cluster.stops == [core.runner_of(attempt_id)]
    assert reserved_cpus(core) == 1
    cluster.end(core.runner_of(attempt_id), ClusterJobState.STOPPED)
    later_round(core, dispatcher, after_seconds=BACKOFF_SECONDS)
    assert attempts_started(core, cluster) == [attempt_id, f"{job.id}-a2"]


def test_an_attempt_that_reports_is_not_silent(
    core: Core, dispatcher: Dispatcher, settings: Settings
) -> None:
    attempt_id = run(core, dispatcher)
    for sequence in (2, 3, 4):
        later_round(core, dispatcher, after_seconds=settings.heartbeat_timeout_seconds - 1)
        core.report(attempt_id, sequence)
    assert core.attempt(attempt_id).state is AttemptState.RUNNING


def test_no_attempt_counts_as_silent_after_its_machine_was_suspended(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, settings: Settings
) -> None:
    attempt_id = run(core, dispatcher)
    cluster.suspended_seconds += 3600.0
    later_round(core, dispatcher, after_seconds=3600.0)
    assert core.attempt(attempt_id).state is AttemptState.RUNNING
    core.report(attempt_id, 2)
    assert core.job(job_id_of(attempt_id)).trained_seconds < 3600.0, "not all of it is training"
    later_round(core, dispatcher, after_seconds=settings.heartbeat_timeout_seconds + 1)
    assert core.attempt(attempt_id).reason is Reason.HEARTBEAT_TIMEOUT


def test_a_log_that_ray_does_not_give_delays_no_other_attempt(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    cluster.is_losing_logs = True
    lost, other = run(core, dispatcher), run(core, dispatcher)
    waiting = core.submit(resources=workers(1, cpus_per_worker=2))
    cluster.end(core.runner_of(lost), ClusterJobState.FAILED, "exit code 1")
    core.command("kill", job_id_of(other))
    later_round(core, dispatcher)
    assert core.attempt(lost).reason is Reason.WORKER_DIED
    assert "exit code 1" in (core.attempt(lost).message or "")
    assert cluster.stops == [core.runner_of(other)]
    assert core.job(waiting).state is JobState.STARTING


def test_no_attempt_counts_as_silent_while_the_api_is_down(
    core: Core, dispatcher: Dispatcher, api_health: HealthEndpoint, settings: Settings
) -> None:
    attempt_id = run(core, dispatcher)
    api_health.is_up = False
    for _ in range(5):
        later_round(core, dispatcher, after_seconds=settings.heartbeat_timeout_seconds)
    api_health.is_up = True
    later_round(core, dispatcher)
    later_round(core, dispatcher, after_seconds=settings.heartbeat_timeout_seconds)
    assert core.attempt(attempt_id).state is AttemptState.RUNNING, "it may be about to report"
    later_round(core, dispatcher)
    assert core.attempt(attempt_id).reason is Reason.HEARTBEAT_TIMEOUT


def test_no_attempt_counts_as_silent_where_no_api_listens(
    core: Core, make: Make, settings: Settings
) -> None:
    dispatcher = make(api_url="http://127.0.0.1:1")
    attempt_id = run(core, dispatcher)
    for _ in range(5):
        later_round(core, dispatcher, after_seconds=settings.heartbeat_timeout_seconds)
    assert core.attempt(attempt_id).state is AttemptState.RUNNING


def test_a_restarted_dispatcher_counts_silence_from_its_own_start(
    core: Core, dispatcher: Dispatcher, make: Make, settings: Settings
) -> None:
    attempt_id = run(core, dispatcher)
    core.clock.advance(10 * settings.heartbeat_timeout_seconds)
    restarted = make()
    restarted.run_round()
    later_round(core, restarted, after_seconds=settings.heartbeat_timeout_seconds)
    assert core.attempt(attempt_id).state is AttemptState.RUNNING
    later_round(core, restarted)
    assert core.attempt(attempt_id).reason is Reason.HEARTBEAT_TIMEOUT


def test_an_attempt_that_falls_silent_while_it_delivers_does_not_stop_its_runner(
    core: Core, cluster: FakeCluster, make: Make, settings: Settings
) -> None:
    cluster.cpus = 1
    dispatcher = make(warm_runners=1)
    first = run(core, dispatcher)
    runner_id = core.runner_of(first)
    assert core.ask(runner_id, trained_attempt_id=first) is None
    second = run(core, dispatcher)
    assert core.runner_of(second) == runner_id
    later_round(core, dispatcher, after_seconds=settings.heartbeat_timeout_seconds)
    core.report(second, 2)
    later_round(core, dispatcher)
    assert core.attempt(first).reason is Reason.HEARTBEAT_TIMEOUT
    assert core.attempt(second).state is AttemptState.RUNNING
    assert core.runner(runner_id).state is RayJobState.READY
    assert cluster.stops == []


@pytest.mark.parametrize("is_taken", [False, True])
def test_the_runner_of_an_attempt_that_never_starts_is_stopped_and_the_job_retried(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, settings: Settings, *, is_taken: bool
) -> None:
    attempt_id = start(core, dispatcher)
    runner_id = core.runner_of(attempt_id)
    if is_taken:
        core.ask(runner_id)
    later_round(core, dispatcher, after_seconds=settings.start_timeout_seconds)
    assert core.attempt(attempt_id).state is AttemptState.STARTING
    later_round(core, dispatcher)
    job = core.job(job_id_of(attempt_id))
    assert (job.state, job.reason) == (JobState.QUEUED, Reason.START_TIMEOUT)
    assert f"the log of {runner_id}" in str(job.message)
    assert cluster.stops == [runner_id]


def test_the_start_timeout_doubles_after_a_start_that_was_too_slow(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, settings: Settings
) -> None:
    limit = settings.start_timeout_seconds
    first = start(core, dispatcher)
    later_round(core, dispatcher, after_seconds=limit + 1.0)
    cluster.end(core.runner_of(first), ClusterJobState.STOPPED)
    later_round(core, dispatcher)
    later_round(core, dispatcher, after_seconds=BACKOFF_SECONDS)
    second = f"{job_id_of(first)}-a2"
    later_round(core, dispatcher, after_seconds=limit + 1.0)
    assert core.attempt(second).state is AttemptState.STARTING
    later_round(core, dispatcher, after_seconds=limit)
    assert core.attempt(second).reason is Reason.START_TIMEOUT


def test_the_start_timeout_does_not_run_while_the_api_is_down(
    core: Core,
    cluster: FakeCluster,
    dispatcher: Dispatcher,
    api_health: HealthEndpoint,
    settings: Settings,
) -> None:
    attempt_id = start(core, dispatcher)
    api_health.is_up = False
    for _ in range(3):
        later_round(core, dispatcher, after_seconds=settings.start_timeout_seconds)
    assert core.attempt(attempt_id).state is AttemptState.STARTING
    assert cluster.stops == []


def test_an_attempt_that_no_longer_fits_is_ended_for_jobs_that_fit(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, settings: Settings
) -> None:
    large = claim_only(core, dispatcher, resources=workers(4))
    cluster.cpus = 2
    small = core.submit()
    later_round(core, dispatcher)
    assert cluster.started == []
    later_round(core, dispatcher, after_seconds=settings.start_timeout_seconds)
    assert core.attempt(large).reason is Reason.START_TIMEOUT
    later_round(core, dispatcher, after_seconds=BACKOFF_SECONDS)
    assert attempts_started(core, cluster) == [f"{small}-a1"]


# Cancel, and the time limit


def test_the_runner_of_a_job_that_is_cancelled_first_is_never_submitted(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    attempt_id = claim_only(core, dispatcher)
    core.cancel(job_id_of(attempt_id))
    later_round(core, dispatcher)
    assert core.job(job_id_of(attempt_id)).state is JobState.CANCELLED
    later_round(core, dispatcher)
    assert cluster.submissions == []
    assert reserved_cpus(core) == 0


def test_a_job_that_is_cancelled_while_its_runner_starts_ends_at_once(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    attempt_id = start(core, dispatcher)
    core.cancel(job_id_of(attempt_id))
    later_round(core, dispatcher)
    assert core.job(job_id_of(attempt_id)).state is JobState.CANCELLED
    assert cluster.stops == [], "the runner can run another attempt"
    assert reserved_cpus(core) == 1
    leave(core, cluster, core.runner_of(attempt_id))
    assert reserved_cpus(core) == 0
    later_round(core, dispatcher)
    assert cluster.jobs == {}


def test_a_job_that_is_cancelled_before_its_first_report_is_stopped_at_once(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    attempt_id = start(core, dispatcher)
    core.ask(core.runner_of(attempt_id))
    core.cancel(job_id_of(attempt_id))
    later_round(core, dispatcher)
    assert core.job(job_id_of(attempt_id)).state is JobState.CANCELLED
    assert cluster.stops == [core.runner_of(attempt_id)]
    assert reserved_cpus(core) == 1
    cluster.end(core.runner_of(attempt_id), ClusterJobState.STOPPED)
    later_round(core, dispatcher)
    assert reserved_cpus(core) == 0
    assert attempts_started(core, cluster) == [attempt_id]


def test_a_cancelled_running_job_has_time_to_stop_by_itself(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, settings: Settings
) -> None:
    attempt_id = run(core, dispatcher)
    core.cancel(job_id_of(attempt_id))
    later_round(core, dispatcher, after_seconds=settings.cancel_grace_seconds)
    assert core.job(job_id_of(attempt_id)).state is JobState.RUNNING
    assert cluster.stops == []
    later_round(core, dispatcher)
    assert core.job(job_id_of(attempt_id)).state is JobState.CANCELLED
    assert cluster.stops == [core.runner_of(attempt_id)]


def test_a_cancelled_job_that_stopped_by_itself_is_not_stopped_again(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    attempt_id = run(core, dispatcher)
    core.cancel(job_id_of(attempt_id))
    core.finish(attempt_id, Reason.CANCELLED)
    later_round(core, dispatcher)
    leave(core, cluster, core.runner_of(attempt_id))
    later_round(core, dispatcher)
    assert cluster.stops == []
    assert reserved_cpus(core) == 0


def test_a_job_that_does_not_stop_at_its_time_limit_is_stopped(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, settings: Settings
) -> None:
    attempt_id = run(core, dispatcher, time_limit_minutes=1)
    core.clock.advance(60.0 + settings.cancel_grace_seconds)
    core.report(attempt_id, 2)
    dispatcher.run_round()
    assert core.attempt(attempt_id).state is AttemptState.RUNNING
    core.clock.advance(1.0)
    core.report(attempt_id, 3)
    dispatcher.run_round()
    job = core.job(job_id_of(attempt_id))
    assert (job.state, job.reason) == (JobState.FAILED, Reason.TIME_LIMIT)
    assert cluster.stops == [core.runner_of(attempt_id)]


@pytest.mark.parametrize(
    ("state", "is_preempted"), [(JobState.PAUSED, False), (JobState.QUEUED, True)]
)
def test_a_paused_or_preempted_job_that_does_not_stop_in_time_is_stopped_and_continues_later(
    core: Core,
    cluster: FakeCluster,
    dispatcher: Dispatcher,
    settings: Settings,
    state: JobState,
    is_preempted: bool,
) -> None:
    attempt_id = run(core, dispatcher, preemptible=True, priority=1)
    if is_preempted:
        core.submit(priority=90, resources={"num_workers": 4})
        later_round(core, dispatcher)
    else:
        core.command("pause", job_id_of(attempt_id))
    later_round(core, dispatcher, after_seconds=settings.cancel_grace_seconds)
    assert core.job(job_id_of(attempt_id)).state is JobState.RUNNING
    later_round(core, dispatcher)
    job = core.job(job_id_of(attempt_id))
    assert (job.state, job.infra_restarts, job.not_before) == (state, 0, None)
    assert cluster.stops == [core.runner_of(attempt_id)]


def test_a_killed_job_is_stopped_at_once(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    attempt_id = run(core, dispatcher)
    core.command("kill", job_id_of(attempt_id))
    later_round(core, dispatcher)
    assert cluster.stops == [core.runner_of(attempt_id)]
