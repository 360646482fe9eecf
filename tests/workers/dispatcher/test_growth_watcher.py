"""The dispatcher resizes elastic jobs: to more workers, and to fewer where a node is gone."""

import pytest

from service.jobs import lifecycle
from service.settings import Settings
from service.states import JobState, Reason, StopReason
from tests.support.cluster import FakeCluster, later_round, run, start
from tests.support.core import Core, job_id_of, make_point
from workers.cluster.ray_jobs import ClusterJobState
from workers.dispatcher.dispatcher import Dispatcher

RANGE = {"num_workers": {"min": 1, "max": 4}}
LONG = {"name": "quick", "iterations": 100_000}


def run_alone(core: Core, cluster: FakeCluster, dispatcher: Dispatcher) -> str:
    """An attempt with one worker that has trained 10 iterations in 10 s."""
    cluster.cpus = 1
    attempt_id = run(core, dispatcher, resources=RANGE, recipe=LONG)
    train(core, dispatcher, attempt_id, 2, seconds=10.0)
    return attempt_id


def train(
    core: Core, dispatcher: Dispatcher, attempt_id: str, sequence: int, *, seconds: float
) -> StopReason | None:
    """The attempt reports after these seconds; what it is then asked for."""
    core.clock.advance(seconds)
    point = make_point("train/loss", 10 * sequence, 0.5)
    answer = core.report(attempt_id, sequence, metrics=[point])
    dispatcher.run_round()
    return answer.stop_reason


def test_a_job_grows_once_more_workers_were_free_for_a_minute(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, settings: Settings
) -> None:
    attempt_id = run_alone(core, cluster, dispatcher)
    seconds = settings.grow_after_seconds / 2
    for sequence, cpus in enumerate((4, 1, 4, 4, 4, 4), start=3):
        assert train(core, dispatcher, attempt_id, sequence, seconds=seconds) is None
        cluster.cpus = cpus
    assert train(core, dispatcher, attempt_id, 9, seconds=0.0) is StopReason.RESIZE
    # Nothing that it has trained is lost, however long it takes to stop.
    later_round(core, dispatcher, after_seconds=settings.cancel_grace_seconds + 1.0)
    assert core.job(job_id_of(attempt_id)).state is JobState.RUNNING
    assert cluster.stops == []
    core.finish(attempt_id, Reason.RESIZED)
    core.ask(core.runner_of(attempt_id))
    dispatcher.run_round()
    assert core.job(job_id_of(attempt_id)).num_workers == 4


def test_a_job_that_waits_for_a_node_that_is_gone_starts_with_fewer_workers(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    """Ray counts a lost node for a minute, and a job may be claimed meanwhile."""
    attempt_id = start(core, dispatcher, resources=RANGE, recipe=LONG)
    runner_id = core.runner_of(attempt_id)
    cluster.cpus = 2
    later_round(core, dispatcher)
    assert core.attempt(attempt_id).reason is Reason.CLUSTER_LOST
    assert cluster.stops == [runner_id]
    cluster.end(runner_id, ClusterJobState.STOPPED)
    for _ in range(3):
        later_round(core, dispatcher)
    job = core.job(job_id_of(attempt_id))
    assert (job.state, job.num_workers, job.attempts) == (JobState.STARTING, 2, 2)


@pytest.mark.parametrize(("failures", "minutes"), [(0, 1), (1, 2)])
def test_a_job_whose_nodes_have_failed_waits_longer(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, failures: int, minutes: int
) -> None:
    attempt_id = run_alone(core, cluster, dispatcher)
    with core.database.transaction() as session:
        lifecycle.lock_job(session, job_id_of(attempt_id)).infra_restarts = failures
    cluster.cpus = 4
    for sequence in range(3, 4 + minutes):
        assert train(core, dispatcher, attempt_id, sequence, seconds=60.0) is None
    assert train(core, dispatcher, attempt_id, 4 + minutes, seconds=0.0) is StopReason.RESIZE
