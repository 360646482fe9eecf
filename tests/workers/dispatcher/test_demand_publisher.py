"""Where an autoscaler can add nodes, the dispatcher requests them before jobs are admitted."""

import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from service.errors import CannotFit
from service.settings import ScalableNodes
from service.states import JobState
from tests.support.cluster import FakeCluster, Make, later_round
from tests.support.core import Core, workers
from workers.cluster.ray_jobs import ClusterJobState
from workers.dispatcher.demand_publisher import ID_PREFIX
from workers.dispatcher.dispatcher import Dispatcher

# Two nodes of 4 CPUs, and one of 4 CPUs and a GPU.
NODES = (ScalableNodes(cpus=4, count=2), ScalableNodes(cpus=4, gpus=1, count=1))


@pytest.fixture
def scaling(make: Make, cluster: FakeCluster) -> Dispatcher:
    """Of a cluster without a node."""
    cluster.cpus = 0
    return make(scalable_nodes=NODES)


def _requests(cluster: FakeCluster) -> list[str]:
    return [id_ for id_ in cluster.jobs if id_.startswith(ID_PREFIX)]


def _settle(core: Core, cluster: FakeCluster, dispatcher: Dispatcher) -> list[Any]:
    """What was requested last, once each request has ended."""
    for _ in range(3):
        later_round(core, dispatcher, after_seconds=11.0)
        for id_ in _requests(cluster):
            cluster.end(id_, ClusterJobState.SUCCEEDED)
    (newest,) = _requests(cluster)
    requested: list[Any] = json.loads(cluster.envs[newest]["RESNETD_DEMAND"])
    return requested


def test_nodes_are_requested_for_what_runs_and_waits_until_nothing_does(
    core: Core, cluster: FakeCluster, scaling: Dispatcher
) -> None:
    assert _settle(core, cluster, scaling) == []
    first = core.submit(resources=workers(2, cpus_per_worker=2))
    core.submit(resources=workers(1, cpus_per_worker=1, gpus_per_worker=1))
    assert _settle(core, cluster, scaling) == [[1, 1.0, 1], [2, 0.0, 2]]
    assert core.job(first).state is JobState.QUEUED

    cluster.cpus = 4
    assert _settle(core, cluster, scaling) == [[1, 1.0, 1], [2, 0.0, 2]]
    assert core.job(first).state is JobState.STARTING
    for job_id in (first, core.submit()):
        core.cancel(job_id)
    assert [1, 1.0, 1] in _settle(core, cluster, scaling)


def test_a_demand_that_the_nodes_cannot_hold_is_never_requested(
    core: Core, cluster: FakeCluster, scaling: Dispatcher
) -> None:
    core.set_quota("user:bob", jobs=1)
    _settle(core, cluster, scaling)
    with pytest.raises(CannotFit, match="can never run") as refused:
        core.submit(resources=workers(8, cpus_per_worker=2))
    assert "the cluster can have 12" in refused.value.field_errors[0].message
    core.submit(resources=workers(2, cpus_per_worker=3))
    core.submit(resources=workers(2, cpus_per_worker=3))  # only one of its workers finds a place
    core.submit(resources=workers(1), user="bob")
    core.submit(resources=workers(1), user="bob")  # exceeds the quota
    assert _settle(core, cluster, scaling) == [[1, 0.0, 1], [3, 0.0, 2]]


def test_one_request_at_a_time_runs_and_a_lost_or_failed_one_is_repeated(
    core: Core, cluster: FakeCluster, scaling: Dispatcher
) -> None:
    core.submit()
    scaling.run_round()
    (first,) = _requests(cluster)
    core.submit(resources=workers(2))
    later_round(core, scaling, after_seconds=11.0)
    assert _requests(cluster) == [first]

    cluster.end(first, ClusterJobState.FAILED, "no module named ray")
    with capture_logs() as logged:
        later_round(core, scaling, after_seconds=11.0)
    assert "cannot request nodes from Ray" in [entry["event"] for entry in logged]
    (second,) = _requests(cluster)
    assert second != first
    cluster.end(second, ClusterJobState.SUCCEEDED)
    later_round(core, scaling, after_seconds=11.0)
    assert cluster.submissions.count(second) == 1
    cluster.jobs.clear()  # the head was restarted
    later_round(core, scaling, after_seconds=11.0)
    assert cluster.submissions.count(second) == 2


def test_without_an_autoscaler_nothing_is_requested(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    core.submit()
    dispatcher.run_round()
    later_round(core, dispatcher, after_seconds=11.0)
    assert _requests(cluster) == []
