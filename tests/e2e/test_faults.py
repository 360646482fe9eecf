"""Processes are killed while a job trains, and the job ends as if they had not been."""

import psutil
import pytest

import resnetd
from deploy.local import LocalService
from service.specs.job_spec import JobSpec
from tests.support.fake_api import eventually
from tests.support.training import expected_points, has_reached, points_of_job, wait_for_job

pytestmark = [pytest.mark.ray, pytest.mark.slow]

JOB_SECONDS = 240.0
# Long enough to be hit in the middle, with a checkpoint before that.
RECIPE = {"name": "quick", "iterations": 300, "evaluate_every": 50, "checkpoint_every": 50}


def _submit(client: resnetd.Client, **recipe: int) -> resnetd.Job:
    """Two workers, for which a warm runner waits."""
    return client.submit(
        depth=20,
        shortcut="A",
        dataset="digits",
        recipe=RECIPE | recipe,
        resources={"num_workers": 2},
    )


def _training_processes(client: resnetd.Client, job: resnetd.Job) -> list[psutil.Process]:
    return [psutil.Process(pid) for pid in client.jobs.get(job.id).document["environment"]["pids"]]


def _assert_complete(client: resnetd.Client, job: resnetd.Job) -> None:
    """The job succeeded, with each metric point and each event exactly once."""
    assert job.state == "succeeded", job.message
    spec = JobSpec.model_validate(job.document["spec"])
    assert points_of_job(client, job.id) == expected_points(spec)
    numbers = [event.number for event in client.jobs.events(job.id)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_job_whose_worker_is_killed_finishes_with_every_point_once(
    client: resnetd.Client,
) -> None:
    job = _submit(client)
    wait_for_job(client, job.id, has_reached(120), within_seconds=JOB_SECONDS)

    _training_processes(client, job)[1].kill()
    job = client.jobs.wait(job.id, timeout_seconds=JOB_SECONDS)

    _assert_complete(client, job)
    first, second = client.jobs.attempts(job.id)
    assert (first.reason, first.blame) == ("worker-died", "infrastructure")
    assert second.reason == "completed"
    resumed = [event.data.get("resumed_at") for event in client.jobs.events(job.id)]
    assert any(iteration is not None and iteration >= 100 for iteration in resumed)
    assert job.restarts == 0


def test_a_job_trains_on_while_the_api_and_then_the_dispatcher_are_killed(
    service: LocalService, client: resnetd.Client
) -> None:
    job = _submit(client)
    wait_for_job(client, job.id, has_reached(60), within_seconds=JOB_SECONDS)
    training = _training_processes(client, job)[0]

    service.stop_process("api", kill=True)
    service.start_process("api")
    service.wait_for_api()
    service.stop_process("dispatcher", kill=True)
    service.start_process("dispatcher")
    next_job = _submit(client, iterations=50)
    assert training.is_running()
    job = client.jobs.wait(job.id, timeout_seconds=JOB_SECONDS)

    _assert_complete(client, job)
    assert job.attempts == 1
    eventually(lambda: not training.is_running())
    # The new dispatcher also serves the queue, and releases what the old one had reserved.
    client.jobs.wait(next_job.id, timeout_seconds=JOB_SECONDS)
    assert all(attempt.document["released_at"] for attempt in client.jobs.attempts(job.id))
