import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.ray_head import RayHead
from service.errors import ClusterUnavailable
from service.resources import WorkerGroup
from tests.support.fake_api import eventually
from tests.support.ray import NUM_CPUS
from tests.workers.cluster.fake_head import TOKEN, FakeHead, fake_head
from workers.cluster import ray_jobs
from workers.cluster.ray_jobs import ClusterJobState, NodeResources, RayJobClient


@pytest.fixture
def fake() -> Iterator[FakeHead]:
    with fake_head() as running:
        yield running


@pytest.fixture
def jobs(fake: FakeHead) -> Iterator[RayJobClient]:
    with RayJobClient(url=fake.url, token=TOKEN) as client:
        yield client


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.ray)])
def either(request: pytest.FixtureRequest) -> Iterator[RayJobClient]:
    """What holds for the fake holds for Ray: every test of this fixture runs against both."""
    if request.param == "fake":
        yield request.getfixturevalue("jobs")
        return
    head: RayHead = request.getfixturevalue("head")
    with RayJobClient(url=head.url, token=head.token) as client:
        yield client


def submit(jobs: RayJobClient, submission_id: str, *, entrypoint: str = "sleep 600") -> None:
    jobs.submit(submission_id, entrypoint=entrypoint, env_vars={"A": "b"}, metadata={"c": "d"})


def state_of(jobs: RayJobClient, submission_id: str) -> ClusterJobState:
    job = jobs.find_job(submission_id)
    assert job is not None
    return job.state


def test_a_job_runs_until_it_is_stopped_and_is_unknown_once_deleted(either: RayJobClient) -> None:
    submit(either, "life-a1")
    submit(either, "life-a1")  # the answer to the first was lost
    eventually(lambda: state_of(either, "life-a1") is ClusterJobState.RUNNING, within_seconds=60)
    [job] = [job for job in either.list_jobs() if job.submission_id == "life-a1"]
    assert job.metadata == {"c": "d"}
    assert not job.state.is_final
    with pytest.raises(ClusterUnavailable, match="non-terminal"):
        either.delete("life-a1")

    assert either.stop("life-a1")
    eventually(lambda: state_of(either, "life-a1") is ClusterJobState.STOPPED, within_seconds=60)
    # Its supervisor outlives it by a moment, and accepts stops until then.
    eventually(lambda: not either.stop("life-a1"), within_seconds=60)

    assert either.delete("life-a1")
    assert either.find_job("life-a1") is None
    assert "life-a1" not in [job.submission_id for job in either.list_jobs()]


def test_an_unknown_job_has_no_status_and_no_log(either: RayJobClient) -> None:
    assert either.find_job("never-a1") is None
    assert not either.stop("never-a1")
    assert not either.delete("never-a1")
    assert either.read_log_tail("never-a1") == ""


def test_a_wrong_token_means_that_the_cluster_is_unavailable(either: RayJobClient) -> None:
    with (
        RayJobClient(url=str(either._http.base_url), token="wrong") as stranger,
        pytest.raises(ClusterUnavailable, match="rejects the token"),
    ):
        stranger.list_jobs()


@pytest.mark.ray
def test_a_real_job_has_its_status_and_the_end_of_its_log(head: RayHead) -> None:
    with RayJobClient(url=head.url, token=head.token) as jobs:
        submit(jobs, "good-a1", entrypoint='test "$A" = b && echo well')
        submit(jobs, "bad-a1", entrypoint="echo oh no; exit 3")
        eventually(lambda: state_of(jobs, "good-a1").is_final, within_seconds=60)
        eventually(lambda: state_of(jobs, "bad-a1").is_final, within_seconds=60)

        assert state_of(jobs, "good-a1") is ClusterJobState.SUCCEEDED
        assert jobs.read_log_tail("good-a1", max_chars=5) == "well\n"
        bad = jobs.find_job("bad-a1")
        assert bad is not None
        assert bad.state is ClusterJobState.FAILED
        assert "exit code 3" in bad.message
        assert "oh no" in bad.message


@pytest.mark.ray
def test_ray_keeps_a_request_for_nodes_after_its_job_has_ended(head: RayHead) -> None:
    read = (
        "import os; from ray._raylet import GcsClient; "
        "print(GcsClient(os.environ['RAY_ADDRESS'])"
        ".internal_kv_get(b'autoscaler_resource_request', None))"
    )
    with RayJobClient(url=head.url, token=head.token) as jobs:
        jobs.submit(
            "demand-1",
            entrypoint=f'python -m workers request-nodes && python -c "{read}"',
            env_vars=ray_jobs.node_request_env("[[4, 0.5, 2], [1, 0, 1]]"),
            metadata={},
        )
        eventually(lambda: state_of(jobs, "demand-1").is_final, within_seconds=60)
        assert state_of(jobs, "demand-1") is ClusterJobState.SUCCEEDED
        log = jobs.read_log_tail("demand-1")
    assert '[{"CPU": 4, "GPU": 0.5}, {"CPU": 4, "GPU": 0.5}, {"CPU": 1}]' in log


@pytest.mark.ray
def test_the_resources_of_a_real_cluster_are_those_it_was_started_with(head: RayHead) -> None:
    with RayJobClient(url=head.url, token=head.token) as jobs:
        found = jobs.read_resources()
    assert (found.num_cpus, found.num_gpus, len(found.nodes)) == (NUM_CPUS, 1, 1)


def test_resources_are_those_of_living_nodes(jobs: RayJobClient) -> None:
    found = jobs.read_resources()
    assert found.nodes[1] == NodeResources(node_id="b", num_cpus=8, num_gpus=2)
    assert (found.num_cpus, found.num_gpus) == (12, 2)


def test_a_log_is_read_from_its_end(jobs: RayJobClient) -> None:
    submit(jobs, "a1")
    assert jobs.read_log_tail("a1", max_chars=10) == "last line\n"


def test_a_failed_job_has_rays_message(fake: FakeHead, jobs: RayJobClient) -> None:
    submit(jobs, "a1")
    fake.end("a1", "FAILED", "exit code 1")
    job = jobs.find_job("a1")
    assert job is not None
    assert (job.state, job.message) == (ClusterJobState.FAILED, "exit code 1")


def test_a_response_that_is_not_from_ray_means_that_the_cluster_is_unavailable(
    fake: FakeHead, jobs: RayJobClient
) -> None:
    fake.is_broken = True
    with pytest.raises(ClusterUnavailable, match="a page"):
        jobs.list_jobs()


def test_a_cluster_without_an_endpoint_is_unavailable() -> None:
    with (
        RayJobClient(url="http://127.0.0.1:1", token=None) as jobs,
        pytest.raises(ClusterUnavailable, match="no response"),
    ):
        jobs.read_resources()


def test_the_environment_of_a_runner_is_complete() -> None:
    env = ray_jobs.runner_env(
        api_url="http://api",
        runner_id="runner-1",
        worker_group=WorkerGroup(num_workers=2, cpus_per_worker=1, gpus_per_worker=0),
        token="t",
        data_dir=Path("/data"),
        work_dir=Path("/work"),
        num_nodes=1,
        log_format="console",
    )
    assert env["RESNETD_RUNNER_WORKER_GROUP"] == "2x1cpu0gpu"
    assert env["RAY_JOB_STOP_SIGNAL"] == "SIGINT"
    assert all(isinstance(value, str) for value in env.values())


def test_the_job_client_imports_neither_ray_nor_torch() -> None:
    check = (
        "import sys, workers.cluster.ray_jobs;"
        "sys.exit(str({'ray', 'torch'} & set(sys.modules)) if {'ray', 'torch'} & set(sys.modules)"
        " else 0)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
