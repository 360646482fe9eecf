"""Runners in Ray: submitted once, stopped when they are late, and deleted."""

import threading

import pytest

from service.errors import ClusterUnavailable, Unauthorized
from service.execution import credentials, ray_job_lifecycle, runners
from service.execution.credentials import CallerKind
from service.resources import ResourceBundle, WorkerGroup
from service.settings import Settings
from service.states import AttemptState, RayJobState, Reason
from tests.support.cluster import (
    FakeCluster,
    Make,
    later_round,
    leave,
    reserved_cpus,
    run,
    start,
    start_warm_runner,
)
from tests.support.core import Core, workers
from workers.cluster.ray_jobs import ClusterJobState
from workers.dispatcher.dispatcher import Dispatcher


def _has_valid_token(core: Core, cluster: FakeCluster, runner_id: str) -> bool:
    """Whether the token in the runner's environment is valid."""
    try:
        with core.database.reading() as session:
            token = cluster.envs[runner_id]["RESNETD_RUNNER_TOKEN"]
            credentials.authenticate(session, CallerKind.RUNNER, runner_id, token)
    except Unauthorized:
        return False
    return True


# Submissions


def test_a_runner_is_submitted_with_its_environment(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, settings: Settings
) -> None:
    resources = workers(2, cpus_per_worker=2)
    runner_id = core.runner_of(start(core, dispatcher, resources=resources))
    env = cluster.envs[runner_id]
    assert env["RESNETD_API_URL"] == settings.api_url
    assert env["RESNETD_RUNNER_ID"] == runner_id
    assert env["RESNETD_RUNNER_WORKER_GROUP"] == "2x2cpu0gpu"
    assert env["RESNETD_DATA_DIR"] == str(settings.data_dir)
    assert env["RESNETD_WORK_DIR"] == str(settings.work_dir)
    assert _has_valid_token(core, cluster, runner_id)
    assert cluster.entrypoints == {"python -m workers runner"}
    assert cluster.jobs[runner_id].metadata == {
        "by": dispatcher.owner,
        "api": settings.api_url,
    }


def test_a_lost_submission_is_repeated_after_a_minute_with_a_new_token(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    attempt_id = f"{core.submit()}-a1"
    with cluster.losing_submissions(), pytest.raises(ClusterUnavailable):
        dispatcher.run_round()
    runner_id = core.runner_of(attempt_id)
    first = core.runner(runner_id).token_sha256
    later_round(core, dispatcher, after_seconds=60.0)
    assert cluster.submissions == [], "it may be under way"
    assert core.attempt(attempt_id).submitted_at is None
    later_round(core, dispatcher)
    assert cluster.submissions == [runner_id]
    assert core.attempt(attempt_id).submitted_at == core.clock.now
    assert core.runner(runner_id).submitted_at == core.clock.now
    assert core.runner(runner_id).token_sha256 != first
    assert _has_valid_token(core, cluster, runner_id)


def test_runners_behind_a_failed_submission_do_not_wait_for_it(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    attempt_ids = [f"{core.submit()}-a1" for _ in range(3)]
    with cluster.losing_submissions(), pytest.raises(ClusterUnavailable):
        dispatcher.run_round()
    dispatcher.run_round()
    assert len(cluster.submissions) == 2
    later_round(core, dispatcher, after_seconds=61.0)
    assert sorted(cluster.submissions) == sorted(map(core.runner_of, attempt_ids))


def _refuse(*_: object, **__: object) -> bool:
    raise ClusterUnavailable("no answer")


def test_a_submission_whose_response_was_lost_is_found_and_not_repeated(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    cluster.is_losing_answers = True
    with pytest.raises(ClusterUnavailable):
        start(core, dispatcher)
    cluster.is_losing_answers = False
    (runner_id,) = cluster.started
    later_round(core, dispatcher)
    runner = core.runner(runner_id)
    assert runner.submitted_at == core.clock.now
    assert runner.attempt_id is not None
    assert core.attempt(runner.attempt_id).submitted_at == core.clock.now
    later_round(core, dispatcher, after_seconds=61.0)
    assert cluster.submissions == [runner_id]
    assert _has_valid_token(core, cluster, runner_id)


def test_a_runner_that_is_drained_before_its_submission_arrived_occupies_nothing(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    dispatcher = make(warm_runners=1, warm_runner_workers=4)
    with cluster.losing_submissions(), pytest.raises(ClusterUnavailable):
        dispatcher.run_round()
    attempt_id = start(core, dispatcher)
    later_round(core, dispatcher, after_seconds=58.0)
    assert cluster.started == [], "its submission may be under way"
    later_round(core, dispatcher, after_seconds=2.0)
    assert cluster.started[0] == core.runner_of(attempt_id)


def test_a_runner_that_was_drained_while_its_submission_failed_is_cleared_away(
    core: Core, dispatcher: Dispatcher
) -> None:
    dispatcher.run_round()
    now = core.clock.now
    with core.database.transaction() as session:
        runner = runners.plan_runner(session, WorkerGroup(1, 1, 0), max_attempts=1, now=now)
        submissions = runners.take_startable(session, ResourceBundle(cpus=4, gpus=0), now=now)
        runners.drain_runner(session, runner.id, now=now)
        ray_job_lifecycle.revert_submissions(session, submissions)
    later_round(core, dispatcher, after_seconds=61.0)
    assert core.runner(runner.id).state is RayJobState.TERMINATED


def test_several_dispatchers_start_each_runner_once_and_no_more_than_fits(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    cluster.cpus = 6
    dispatchers = [make() for _ in range(3)]
    for dispatcher in dispatchers:
        dispatcher.run_round()
    jobs = [core.submit() for _ in range(8)]
    together = threading.Barrier(len(dispatchers))

    def run_round(dispatcher: Dispatcher) -> None:
        together.wait()
        dispatcher.run_round()

    threads = [threading.Thread(target=run_round, args=(dispatcher,)) for dispatcher in dispatchers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(cluster.submissions) == sorted(
        core.runner_of(f"{job_id}-a1") for job_id in jobs[:6]
    )


# Ends


def test_a_runner_that_does_not_return_from_its_attempt_is_stopped_repeatedly(
    core: Core, cluster: FakeCluster, with_warm_runner: Dispatcher, settings: Settings
) -> None:
    attempt_id = run(core, with_warm_runner)
    runner_id = core.runner_of(attempt_id)
    core.finish(attempt_id)
    later_round(core, with_warm_runner, after_seconds=settings.termination_grace_seconds)
    assert cluster.stops == []
    for _ in range(10):
        later_round(core, with_warm_runner)
    assert cluster.stops == [runner_id]
    assert core.runner(runner_id).state is RayJobState.DRAINING
    later_round(core, with_warm_runner)
    assert cluster.stops == [runner_id] * 2


def test_a_runner_that_ran_for_long_has_time_to_exit(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, settings: Settings
) -> None:
    attempt_id = run(core, dispatcher)
    core.clock.advance(3600.0)
    core.finish(attempt_id)
    runner_id = core.runner_of(attempt_id)
    response = core.ask(runner_id)
    assert response is not None
    assert response.should_exit
    later_round(core, dispatcher, after_seconds=settings.termination_grace_seconds)
    assert cluster.stops == []
    later_round(core, dispatcher)
    assert cluster.stops == [runner_id]


def test_a_leaving_runner_that_delivers_reports_is_not_stopped(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, settings: Settings
) -> None:
    attempt_id = run(core, dispatcher)
    runner_id = core.runner_of(attempt_id)
    core.clock.advance(settings.heartbeat_timeout_seconds / 2)
    core.ask(runner_id, is_exiting=True)
    for sequence in (2, 3, 4):
        later_round(core, dispatcher, after_seconds=settings.termination_grace_seconds)
        core.report(attempt_id, sequence)
    assert cluster.stops == []
    assert core.attempt(attempt_id).state is AttemptState.RUNNING
    core.finish(attempt_id, Reason.DIVERGED)
    cluster.end(runner_id, ClusterJobState.SUCCEEDED)
    later_round(core, dispatcher)
    assert reserved_cpus(core) == 0


def test_a_drained_runner_may_deliver_what_its_last_attempt_trained(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, settings: Settings
) -> None:
    attempt_id = run(core, dispatcher)
    response = core.ask(core.runner_of(attempt_id), trained_attempt_id=attempt_id)
    assert response is not None
    assert response.should_exit
    for sequence in (2, 3, 4):
        later_round(core, dispatcher, after_seconds=settings.termination_grace_seconds)
        core.report(attempt_id, sequence)
    assert cluster.stops == []
    core.finish(attempt_id)
    later_round(core, dispatcher)
    assert cluster.stops == [core.runner_of(attempt_id)]


def test_a_lost_runner_is_left_to_the_dispatcher_that_watches_its_attempt(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, make: Make
) -> None:
    attempt_id = run(core, dispatcher)
    runner_id = core.runner_of(attempt_id)
    cluster.end(runner_id, ClusterJobState.FAILED)
    make().run_round()
    assert list(cluster.jobs) == [runner_id]
    assert core.runner(runner_id).state is RayJobState.READY
    assert core.attempt(attempt_id).state is AttemptState.RUNNING
    later_round(core, dispatcher)
    assert core.attempt(attempt_id).reason is Reason.WORKER_DIED
    assert core.runner(runner_id).state is RayJobState.TERMINATED


def test_a_terminated_runner_is_deleted_from_ray(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    attempt_id = run(core, dispatcher)
    core.finish(attempt_id)
    runner_id = core.runner_of(attempt_id)
    leave(core, cluster, runner_id)
    later_round(core, dispatcher)
    assert cluster.jobs == {}
    assert core.runner(runner_id).terminated_at == core.clock.now


def test_a_runner_that_could_not_be_deleted_from_ray_is_deleted_later(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt_id = run(core, dispatcher)
    core.finish(attempt_id)
    cluster.end(core.runner_of(attempt_id), ClusterJobState.FAILED)
    with monkeypatch.context() as patched, pytest.raises(ClusterUnavailable):
        patched.setattr(cluster, "delete", _refuse)
        later_round(core, dispatcher)
    later_round(core, dispatcher)
    assert cluster.jobs == {}
    assert reserved_cpus(core) == 0


def test_a_runner_that_is_not_listed_yet_is_not_lost(
    core: Core, cluster: FakeCluster, with_warm_runner: Dispatcher
) -> None:
    warm_runner = start_warm_runner(core, cluster, with_warm_runner)
    cluster.jobs.clear()
    later_round(core, with_warm_runner, after_seconds=15.0)
    assert core.runner(warm_runner).state is RayJobState.READY
    later_round(core, with_warm_runner)
    assert core.runner(warm_runner).state is RayJobState.TERMINATED


def test_a_warm_runner_is_drained_after_the_warm_pool_was_switched_off(
    core: Core, cluster: FakeCluster, with_warm_runner: Dispatcher, make: Make
) -> None:
    warm_runner = start_warm_runner(core, cluster, with_warm_runner)
    without = make(warm_runners=0)
    later_round(core, without, after_seconds=61.0)
    assert core.runner(warm_runner).state is RayJobState.DRAINING
    leave(core, cluster, warm_runner)
    later_round(core, without)
    assert cluster.jobs == {}
