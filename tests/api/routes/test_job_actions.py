"""Routes of actions on a job."""

from typing import Any

import pytest

from service.jobs.checkpoints import ARTIFACT_PREFIX
from service.storage.artifacts import ArtifactStore
from tests.support.api import RFC_3339, Api
from tests.support.core import job_id_of, note
from tests.support.fake_api import eventually


@pytest.mark.parametrize(
    ("action", "state"),
    [("hold", "held"), ("pause", "paused"), ("cancel", "cancelled"), ("kill", "cancelled")],
)
def test_an_action_returns_the_changed_job(api: Api, action: str, state: str) -> None:
    answer = api.post(f"/v1/jobs/{api.core.submit()}/{action}")
    assert answer.status_code in (200, 202)
    assert answer.json()["state"] == state


def test_an_action_that_the_state_does_not_allow_is_a_conflict(api: Api) -> None:
    answer = api.post(f"/v1/jobs/{job_id_of(api.core.run())}/release")
    assert (answer.status_code, answer.json()["code"]) == (409, "illegal-transition")


def test_a_waiting_job_is_cancelled_at_once(api: Api) -> None:
    job_id = api.core.submit()
    answer = api.post(f"/v1/jobs/{job_id}/cancel")
    assert answer.status_code == 202
    job = answer.json()
    assert (job["state"], job["reason"]) == ("cancelled", "cancelled")
    assert job["finished_at"] == api.core.clock.now.strftime(RFC_3339)
    assert api.get(f"/v1/jobs/{job_id}").json() == job


def test_cancelling_a_running_job_requests_a_stop(api: Api) -> None:
    claimed = api.core.run()
    answer = api.post(f"/v1/jobs/{job_id_of(claimed)}/cancel")
    assert answer.status_code == 202
    assert (answer.json()["state"], answer.json()["stop_requested"]) == ("running", "cancel")
    assert api.report(claimed, 2).json() == {"last_sequence": 2, "stop_reason": "cancel"}


def test_a_repeated_cancel_changes_nothing(api: Api) -> None:
    job_id = api.core.submit()
    first = api.post(f"/v1/jobs/{job_id}/cancel").json()
    api.core.clock.advance(5.0)
    answer = api.post(f"/v1/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()) == (202, first)


def test_a_job_that_has_ended_cannot_be_cancelled(api: Api) -> None:
    claimed = api.core.run()
    api.core.finish(claimed.attempt_id)
    answer = api.post(f"/v1/jobs/{job_id_of(claimed)}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "illegal-transition")


def test_an_unknown_job_cannot_be_cancelled(api: Api) -> None:
    assert api.post(f"/v1/jobs/{'0' * 16}/cancel").status_code == 404


def test_pausing_a_running_job_requests_a_stop(api: Api) -> None:
    claimed = api.core.run()
    answer = api.post(f"/v1/jobs/{job_id_of(claimed)}/pause")
    assert answer.json()["stop_requested"] == "pause"
    assert api.checkpoint(claimed, 2, note(40)).json()["stop_reason"] == "pause"


def test_the_priority_and_the_labels_of_a_job_can_be_changed(api: Api) -> None:
    job_id = api.core.submit()
    update = {"priority": 70, "name": "best", "tags": ["a"], "note": "why", "starred": True}
    changed = api.call("PATCH", f"/v1/jobs/{job_id}", json=update).json()
    assert (changed["spec"]["priority"], changed["spec"]["tags"]) == (70, ["a"])
    assert {
        "priority": 70,
        "name": "best",
        "note": "why",
        "starred": True,
    }.items() <= changed.items()


@pytest.mark.parametrize(
    "update", [{"priority": 101}, {"depth": 20}, {"tags": ["a b"]}, {"name": ""}]
)
def test_what_else_a_job_is_cannot_be_changed(api: Api, update: dict[str, Any]) -> None:
    path = f"/v1/jobs/{api.core.submit()}"
    assert api.call("PATCH", path, json=update).status_code == 422


def test_a_search_gets_a_name_and_is_archived(api: Api) -> None:
    job = {"depth": 8, "shortcut": "A", "dataset": "digits"}
    space = {"recipe.learning_rate": {"loguniform": [0.01, 1]}}
    search = api.post("/v1/searches", {"job": job, "space": space}).json()
    path = f"/v1/searches/{search['id']}"
    update = {"name": "rates", "archived": True}
    assert api.call("PATCH", path, json=update).json()["name"] == "rates"
    assert api.get("/v1/searches").json()["searches"] == []
    assert len(api.get("/v1/searches?archived=true").json()["searches"]) == 1


def test_a_clone_is_a_new_job(api: Api) -> None:
    job_id = api.core.submit(seed=1)
    cloned = api.post(f"/v1/jobs/{job_id}/clone", {"depth": 14})
    assert cloned.status_code == 201
    assert cloned.headers["Location"] == f"/v1/jobs/{cloned.json()['id']}"
    assert cloned.json()["spec"] | {"seed": 1, "depth": 14} == cloned.json()["spec"]
    wrong = api.post(f"/v1/jobs/{job_id}/clone", {"depth": 9})
    assert [error["pointer"] for error in wrong.json()["errors"]] == ["/depth"]


def test_the_artifacts_of_a_deleted_job_are_deleted(api: Api) -> None:
    claimed = api.core.run()
    job_id = job_id_of(claimed)
    api.checkpoint(claimed, 2, note(40))
    assert api.call("DELETE", f"/v1/jobs/{job_id}").status_code == 409
    api.core.finish(claimed.attempt_id)
    api.core.release(claimed)
    assert api.call("DELETE", f"/v1/jobs/{job_id}").status_code == 204
    assert api.get(f"/v1/jobs/{job_id}").status_code == 404
    stored = ArtifactStore(api.settings.artifacts_url)
    eventually(lambda: list(stored.list_prefix(f"{ARTIFACT_PREFIX}/{claimed.attempt_id}/")) == [])
