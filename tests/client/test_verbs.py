"""The commands that steer jobs."""

import json
from pathlib import Path

import pytest

from tests.client.conftest import Command
from tests.client.fake_documents import STATE_AFTER, WAITING
from tests.client.fake_service import FakeService


@pytest.mark.parametrize(("verb", "state"), STATE_AFTER.items())
def test_a_verb_tells_the_state_that_follows(
    service: FakeService, command: Command, verb: str, state: str
) -> None:
    job_id = service.add_job()
    assert command(verb, job_id[:6]) == 0
    assert command.out == f"{job_id} {state}\n"
    assert len(service.asked("POST", f"/v1/jobs/{job_id}/{verb}")) == 1


def test_a_priority_is_changed(service: FakeService, command: Command) -> None:
    job_id = service.add_job()
    assert command("priority", "90", job_id, "-o", "json") == 0
    assert [job["priority"] for job in json.loads(command.out)] == [90]
    assert command("priority", "101", job_id) == 2


def test_a_clone_is_sent_what_is_set(service: FakeService, command: Command) -> None:
    job_id = service.add_job()
    assert command("clone", job_id, "--set", "recipe.iterations=10", "--set", "seed=1") == 0
    assert command.out.strip() in service.jobs
    (request,) = service.asked("POST", f"/v1/jobs/{job_id}/clone")
    assert request.body == {"recipe": {"iterations": 10}, "seed": 1}
    assert request.headers["idempotency-key"]


def test_a_batch_is_one_request(service: FakeService, command: Command, tmp_path: Path) -> None:
    file = tmp_path / "jobs.json"
    file.write_text('[{"depth": 20}, {"depth": 20, "after": ["#0"]}]')
    assert command("batch", str(file)) == 0
    assert command.out.split() == list(service.jobs)
    (request,) = service.asked("POST", "/v1/jobs:batch")
    assert request.body == {"jobs": json.loads(file.read_text())}


@pytest.mark.parametrize("written", ["{}", "[1]", "["])
def test_a_file_that_is_no_batch_is_refused_unsent(
    service: FakeService, command: Command, tmp_path: Path, written: str
) -> None:
    file = tmp_path / "jobs.json"
    file.write_text(written)
    assert command("batch", str(file)) == 2
    assert service.requests == []


def test_the_queue_is_listed_with_why_each_waits(command: Command) -> None:
    assert command("queue") == 0
    assert "[b]resnet[/b]" in command.out
    assert "51.5" in command.out
    assert "it needs 4 CPUs, 2 CPUs are free" in command.out


def test_a_plan_tells_what_a_job_would_take(service: FakeService, command: Command) -> None:
    assert command("plan", "--set", "depth=20") == 0
    assert "269,722" in command.out
    assert "2 min to 3 min" in command.out
    (request,) = service.asked("POST", "/v1/jobs:plan")
    assert request.body == {"depth": 20}


def test_a_waiting_job_is_shown_with_why(service: FakeService, command: Command) -> None:
    job_id = service.add_job(waiting=WAITING)
    assert command("show", job_id) == 0
    assert "it needs 4 CPUs, 2 CPUs are free" in command.out


def test_a_job_is_deleted(service: FakeService, command: Command) -> None:
    job_id = service.add_job()
    assert command("delete", job_id[:6]) == 0
    assert command.out == f"{job_id} deleted\n"
    assert service.jobs == {}
