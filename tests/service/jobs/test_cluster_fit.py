"""Jobs that the cluster can never run are refused."""

import pytest

from service.errors import CannotFit
from service.resources import ResourceBundle
from tests.support.core import Core


def test_a_job_larger_than_the_cluster_is_refused(core: Core) -> None:
    core.record_cluster(cpus=4, gpus=1)
    core.submit(resources={"num_workers": 4})
    with pytest.raises(CannotFit) as caught:
        core.submit(resources={"num_workers": 4, "cpus_per_worker": 2})
    (fault,) = caught.value.field_errors
    assert fault.pointer == "/resources"
    assert fault.message == "4 workers need 8 CPUs; the cluster has 4"


def test_a_job_that_needs_more_gpus_than_exist_is_refused(core: Core) -> None:
    core.record_cluster(cpus=4, gpus=1)
    with pytest.raises(CannotFit) as caught:
        core.submit(resources={"num_workers": 2, "gpus_per_worker": 1})
    assert "2 GPUs" in caught.value.field_errors[0].message


@pytest.mark.parametrize(
    ("nodes", "resources", "message"),
    [
        (
            [ResourceBundle(cpus=4, gpus=0), ResourceBundle(cpus=4, gpus=0)],
            {"num_workers": 1, "cpus_per_worker": 8},
            "each worker needs one node with 8 CPUs; no node has that",
        ),
        (
            [ResourceBundle(cpus=3, gpus=0), ResourceBundle(cpus=5, gpus=0)],
            {"num_workers": 4, "cpus_per_worker": 2},
            "each worker needs one node with 2 CPUs; only 3 of the 4 workers fit",
        ),
        (
            [ResourceBundle(cpus=7, gpus=0), ResourceBundle(cpus=1, gpus=2)],
            {"num_workers": 2, "gpus_per_worker": 1},
            "each worker needs one node with 1 CPU and 1 GPU; only 1 of the 2 workers fits",
        ),
        (
            [ResourceBundle(cpus=7, gpus=0), ResourceBundle(cpus=1, gpus=1)],
            {"num_workers": 1, "cpus_per_worker": 2, "gpus_per_worker": 0.5},
            "each worker needs one node with 2 CPUs and 0.5 GPUs; no node has that",
        ),
    ],
)
def test_workers_that_do_not_fit_on_the_nodes_are_refused(
    core: Core, nodes: list[ResourceBundle], resources: dict[str, float], message: str
) -> None:
    core.record_cluster(cpus=8, gpus=sum(node.gpus for node in nodes), nodes=nodes)
    with pytest.raises(CannotFit) as caught:
        core.submit(resources=resources)
    assert caught.value.field_errors[0].message == message
    core.submit(resources=resources | {"num_workers": 1, "cpus_per_worker": 1})


def test_no_job_is_refused_before_the_cluster_is_known(core: Core) -> None:
    assert core.submit(resources={"num_workers": 64})
