"""The routes that steer jobs, and those by which the queue explains itself."""

import pytest

from service.jobs.checkpoints import ARTIFACT_PREFIX
from service.storage.artifacts import ArtifactStore
from tests.support.api import Api
from tests.support.core import job_id_of, note, workers, written
from tests.support.fake_api import eventually


@pytest.mark.parametrize(
    ("verb", "state"),
    [("hold", "held"), ("pause", "paused"), ("cancel", "cancelled"), ("kill", "cancelled")],
)
def test_a_verb_answers_the_job_as_it_is_then(api: Api, verb: str, state: str) -> None:
    answer = api.post(f"/v1/jobs/{api.core.submit()}/{verb}")
    assert answer.status_code in (200, 202)
    assert answer.json()["state"] == state


def test_what_the_state_does_not_allow_is_a_conflict(api: Api) -> None:
    answer = api.post(f"/v1/jobs/{job_id_of(api.core.run())}/release")
    assert (answer.status_code, answer.json()["code"]) == (409, "illegal-transition")


def test_a_running_job_is_told_to_pause_and_says_so(api: Api) -> None:
    claimed = api.core.run()
    answer = api.post(f"/v1/jobs/{job_id_of(claimed)}/pause")
    assert answer.json()["stop_requested"] == "pause"
    assert api.checkpoint(claimed, 2, note(40)).json()["stop_reason"] == "pause"


def test_a_priority_is_changed_and_nothing_else(api: Api) -> None:
    job_id = api.core.submit()
    changed = api.call("PATCH", f"/v1/jobs/{job_id}", json={"priority": 70}).json()
    assert (changed["priority"], changed["spec"]["priority"]) == (70, 70)
    for wrong in ({"priority": 101}, {"depth": 20}, {}):
        assert api.call("PATCH", f"/v1/jobs/{job_id}", json=wrong).status_code == 422


def test_a_batch_is_saved_whole_or_not_at_all(api: Api) -> None:
    good = {"jobs": [written(), written(after=["#0"])]}
    made = api.post("/v1/jobs:batch", good, headers={"Idempotency-Key": "k"})
    assert made.status_code == 201
    assert [job["state"] for job in made.json()["jobs"]] == ["queued", "blocked"]
    again = api.post("/v1/jobs:batch", good, headers={"Idempotency-Key": "k"})
    assert again.headers["Idempotency-Replayed"] == "true"
    bad = api.post("/v1/jobs:batch", {"jobs": [written(), written(after=["#1"])]})
    assert [error["pointer"] for error in bad.json()["errors"]] == ["/jobs/1/after/0/job"]
    assert len(api.get("/v1/jobs").json()["jobs"]) == 2


def test_a_clone_is_a_job_of_its_own(api: Api) -> None:
    job_id = api.core.submit(seed=1)
    cloned = api.post(f"/v1/jobs/{job_id}/clone", {"depth": 14})
    assert cloned.status_code == 201
    assert cloned.headers["Location"] == f"/v1/jobs/{cloned.json()['id']}"
    assert cloned.json()["spec"] | {"seed": 1, "depth": 14} == cloned.json()["spec"]
    wrong = api.post(f"/v1/jobs/{job_id}/clone", {"depth": 9})
    assert [error["pointer"] for error in wrong.json()["errors"]] == ["/depth"]


def test_a_job_carries_the_name_of_its_token(api: Api) -> None:
    assert api.post("/v1/jobs", written()).json()["user"] == "admin"


def test_a_waiting_job_says_why(any_api: Api) -> None:
    any_api.core.record_cluster(cpus=2)
    any_api.core.start_small(cpus=1)
    job_id = any_api.core.submit(resources=workers(2))
    waiting = any_api.get(f"/v1/jobs/{job_id}").json()["waiting"]
    assert (waiting["code"], waiting["position"]) == ("resources", 1)
    assert any_api.get("/v1/queue").json()["jobs"][0]["waiting"] == waiting


def test_a_plan_is_the_whole_spec_with_what_it_weighs(any_api: Api) -> None:
    planned = any_api.post("/v1/jobs:plan", written(depth=20))
    assert planned.status_code == 200, planned.text
    document = planned.json()
    assert document["spec"]["recipe"]["iterations"] == 600
    assert (document["network"], document["parameters"]) == ("resnet-20-A", 269_722)
    assert document["minutes"] is None
    assert any_api.get("/v1/jobs").json()["jobs"] == []


def test_a_plan_of_a_wrong_spec_is_refused_in_its_places(api: Api) -> None:
    refused = api.post("/v1/jobs:plan", written(depth=9))
    assert [error["pointer"] for error in refused.json()["errors"]] == ["/depth"]


def test_a_deleted_job_takes_its_artifacts_along(api: Api) -> None:
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
