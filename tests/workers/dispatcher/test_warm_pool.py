"""Warm runners: started ahead, assigned, replaced, and drained when other jobs need their CPUs."""

import pytest

from service.execution import runners
from service.resources import WorkerGroup
from service.settings import Settings
from service.states import RayJobState
from tests.support.cluster import (
    FakeCluster,
    Make,
    later_round,
    leave,
    run,
    start,
    start_warm_runner,
)
from tests.support.core import Core, workers
from workers.cluster.ray_jobs import ClusterJobState
from workers.dispatcher.dispatcher import Dispatcher


def test_a_warm_runner_is_started_before_any_job_is_submitted(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    make(warm_runners=1, warm_runner_workers=2).run_round()
    (runner_id,) = cluster.started
    assert runners.worker_group_of(core.runner(runner_id)) == WorkerGroup(2, 1, 0)


def test_a_warm_runner_gets_a_job_without_a_request_to_ray(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    dispatcher = make(warm_runners=1, poll_interval_seconds=60.0)
    warm_runner = start_warm_runner(core, cluster, dispatcher)
    cluster.is_away = True
    attempt_id = start(core, dispatcher)
    assert core.runner_of(attempt_id) == warm_runner
    assert core.attempt(attempt_id).submitted_at == core.clock.now
    response = core.ask(warm_runner)
    assert response is not None
    assert response.assignment is not None
    assert response.assignment.config.attempt_id == attempt_id


def test_a_runner_runs_one_job_after_another(
    core: Core, cluster: FakeCluster, with_warm_runner: Dispatcher
) -> None:
    cluster.cpus = 1
    warm_runner = start_warm_runner(core, cluster, with_warm_runner)
    for _ in range(3):
        attempt_id = run(core, with_warm_runner)
        assert core.runner_of(attempt_id) == warm_runner
        core.finish(attempt_id)
        assert core.ask(warm_runner) is None
        later_round(core, with_warm_runner)
    assert cluster.submissions == [warm_runner]
    assert cluster.stops == []


def test_another_warm_runner_is_started_while_the_first_is_busy(
    core: Core, cluster: FakeCluster, with_warm_runner: Dispatcher
) -> None:
    warm_runner = start_warm_runner(core, cluster, with_warm_runner)
    run(core, with_warm_runner)
    later_round(core, with_warm_runner)
    first, second = cluster.started
    assert first == warm_runner
    assert core.runner(second).attempt_id is None


def test_a_warm_runner_is_drained_for_a_job_with_other_workers(
    core: Core, cluster: FakeCluster, with_warm_runner: Dispatcher
) -> None:
    warm_runner = start_warm_runner(core, cluster, with_warm_runner)
    attempt_id = start(core, with_warm_runner, resources=workers(4))
    assert cluster.started == [warm_runner]
    later_round(core, with_warm_runner)
    assert cluster.stops == [], "it exits by itself"
    leave(core, cluster, warm_runner)
    later_round(core, with_warm_runner)
    assert cluster.started == [warm_runner, core.runner_of(attempt_id)]
    assert core.runner(warm_runner).state is RayJobState.TERMINATED


def test_the_dispatcher_polls_often_while_a_warm_runner_drains(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    dispatcher = make(warm_runners=1, poll_interval_seconds=60.0)
    start_warm_runner(core, cluster, dispatcher)
    core.submit(resources=workers(4))
    assert dispatcher.run_round() == pytest.approx(0.2)


def test_a_warm_runner_that_does_not_exit_is_stopped(
    core: Core, cluster: FakeCluster, with_warm_runner: Dispatcher, settings: Settings
) -> None:
    warm_runner = start_warm_runner(core, cluster, with_warm_runner)
    start(core, with_warm_runner, resources=workers(4))
    later_round(core, with_warm_runner, after_seconds=settings.termination_grace_seconds)
    assert cluster.stops == []
    later_round(core, with_warm_runner)
    assert cluster.stops == [warm_runner]


def test_a_warm_runner_that_died_is_replaced(
    core: Core, cluster: FakeCluster, with_warm_runner: Dispatcher
) -> None:
    warm_runner = start_warm_runner(core, cluster, with_warm_runner)
    cluster.end(warm_runner, ClusterJobState.FAILED)
    later_round(core, with_warm_runner)
    first, second = cluster.started
    assert first == warm_runner
    assert list(cluster.jobs) == [second]
    assert core.runner(warm_runner).state is RayJobState.TERMINATED


def test_a_warm_runner_that_died_before_it_was_ready_is_replaced_after_a_minute(
    core: Core, cluster: FakeCluster, with_warm_runner: Dispatcher
) -> None:
    with_warm_runner.run_round()
    cluster.end(cluster.started[0], ClusterJobState.FAILED)
    for _ in range(3):
        later_round(core, with_warm_runner)
    assert len(cluster.started) == 1
    later_round(core, with_warm_runner, after_seconds=60.0)
    assert len(cluster.started) == 2


def test_a_warm_runner_that_never_becomes_ready_is_stopped(
    core: Core, cluster: FakeCluster, with_warm_runner: Dispatcher, settings: Settings
) -> None:
    with_warm_runner.run_round()
    (warm_runner,) = cluster.started
    later_round(core, with_warm_runner, after_seconds=settings.start_timeout_seconds)
    assert cluster.stops == []
    later_round(core, with_warm_runner)
    assert cluster.stops == [warm_runner]
    assert core.runner(warm_runner).state is RayJobState.DRAINING


def test_a_ready_warm_runner_may_wait_for_days(
    core: Core, cluster: FakeCluster, with_warm_runner: Dispatcher
) -> None:
    warm_runner = start_warm_runner(core, cluster, with_warm_runner)
    later_round(core, with_warm_runner, after_seconds=1_000_000.0)
    assert cluster.started == [warm_runner]
    assert cluster.stops == []


def test_a_planned_warm_runner_that_no_longer_fits_does_not_block_others(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    planned = _plan(core, WorkerGroup(4, 1, 0))
    cluster.cpus = 2
    attempt_id = start(core, make(warm_runners=1))
    assert cluster.started[0] == core.runner_of(attempt_id)
    assert core.runner(planned).state is RayJobState.TERMINATED


def test_a_job_is_started_before_a_warm_runner_that_was_planned_earlier(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    _plan(core, WorkerGroup(3, 1, 0))
    attempt_id = start(core, make(warm_runners=1), resources=workers(2))
    assert cluster.started[0] == core.runner_of(attempt_id)


def _plan(core: Core, shape: WorkerGroup) -> str:
    """A runner that a dispatcher has planned, and that was not submitted yet."""
    with core.database.transaction() as session:
        return runners.plan_runner(session, shape, max_attempts=100, now=core.clock.now).id
