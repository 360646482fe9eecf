"""Quotas: set at run time, checked when a job is submitted and when it is claimed."""

from typing import Any

import pytest

from service.access import storage_use
from tests.support.api import Api
from tests.support.core import job_id_of, note, written
from tests.support.searching import Searching


def test_a_quota_is_set_listed_and_deleted(any_api: Api) -> None:
    limits = {"jobs": 4, "workers": None, "gpus": 0.5, "waiting": 50}
    limits |= {"core_hours": 100.0, "gpu_hours": None, "stored_bytes": 10**12}
    for key in ("tag:nightly", "user:*", "group:cs101", "tag:*"):
        assert any_api.call("PUT", f"/v1/quotas/{key}", json=limits).json() == {
            "key": key,
            **limits,
        }
    any_api.call("PUT", "/v1/quotas/user:*", json={"jobs": 2})
    listed = any_api.get("/v1/quotas").json()["quotas"]
    assert [(quota["key"], quota["jobs"], quota["gpus"]) for quota in listed] == [
        ("group:cs101", 4, 0.5),
        ("tag:*", 4, 0.5),
        ("tag:nightly", 4, 0.5),
        ("user:*", 2, None),
    ]
    assert any_api.call("DELETE", "/v1/quotas/user:*").status_code == 204
    assert any_api.call("DELETE", "/v1/quotas/user:*").status_code == 404


@pytest.mark.parametrize("key", ["ann", "course:x", "user:"])
def test_a_key_names_a_person_a_group_or_a_tag(api: Api, key: str) -> None:
    assert api.call("PUT", f"/v1/quotas/{key}", json={"jobs": 1}).status_code == 422


def test_a_submission_beyond_a_quota_says_limit_and_use_and_when_it_frees(any_api: Api) -> None:
    token = any_api.add_person("ann")
    any_api.core.set_quota("user:*", waiting=2)
    for _ in range(2):
        assert any_api.post("/v1/jobs", written(), token=token).status_code == 201
    refused = any_api.post("/v1/jobs", written(), token=token)
    assert (refused.status_code, refused.json()["code"]) == (409, "quota-exceeded")
    assert refused.json()["detail"] == (
        "user:ann has 2 of 2 waiting jobs; "
        "a place becomes free when one of them starts or is cancelled"
    )
    any_api.core.record_cluster(cpus=1)
    any_api.core.start_next()
    assert any_api.post("/v1/jobs", written(), token=token).status_code == 201
    assert any_api.post("/v1/jobs", written()).status_code == 201  # of the admin


def test_the_jobs_of_all_people_of_a_group_count_for_its_quota(any_api: Api) -> None:
    ann = any_api.add_person("ann", group="cs101")
    ben = any_api.add_person("ben", group="cs101")
    eve = any_api.add_person("eve", group="cs102")
    any_api.core.set_quota("group:cs101", waiting=1)
    assert any_api.post("/v1/jobs", written(), token=ann).status_code == 201
    refused = any_api.post("/v1/jobs", written(), token=ben)
    assert refused.json()["detail"].startswith("group:cs101 has 1 of 1 waiting job; ")
    assert any_api.post("/v1/jobs", written(), token=eve).status_code == 201
    any_api.call("PATCH", "/v1/people/ben", json={"group": ""})
    assert any_api.post("/v1/jobs", written(), token=ben).status_code == 201


def test_a_batch_beyond_a_quota_submits_nothing(any_api: Api) -> None:
    any_api.core.set_quota("tag:nightly", waiting=2)
    batch = [written(tags=["nightly"])] * 3
    assert any_api.post("/v1/jobs:batch", {"jobs": batch}).status_code == 409
    assert any_api.get("/v1/jobs").json()["jobs"] == []
    assert any_api.post("/v1/jobs:batch", {"jobs": batch[:2]}).status_code == 201


def test_a_repeated_submission_needs_no_further_place(api: Api) -> None:
    api.core.set_quota("user:*", waiting=1)
    answers = [
        api.post("/v1/jobs", written(), headers={"Idempotency-Key": "once"}) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201]


def test_a_quota_does_not_break_a_search_that_runs(api: Api) -> None:
    """Its own budget limits its trials."""
    searching = Searching(api.core)
    search_id = searching.run()
    api.core.set_quota("user:*", waiting=0)
    assert searching.assign_trial(search_id, "a").job_id


def test_a_waiting_job_names_the_quota_and_when_it_frees(api: Api) -> None:
    api.core.set_quota("user:ann", jobs=1)
    running = api.core.run(user="ann")
    waiting = api.core.submit(user="ann")
    found = api.get(f"/v1/jobs/{waiting}").json()["waiting"]
    assert found["code"] == "limit"
    assert found["message"].startswith("user:ann has 1 of 1 job running; job ")
    assert running.attempt_id.rsplit("-", 1)[0] in found["message"]


def test_above_a_quota_of_storage_nothing_is_submitted_and_what_runs_goes_on(any_api: Api) -> None:
    core = any_api.core
    token = any_api.add_person("ann")
    # Three bytes less than the two parts have.
    core.set_quota("user:*", stored_bytes=len("weights of iteration 20state of iteration 20") - 3)
    taken = core.start(user="ann", retention={"keep_newest": 2})
    waiting = core.submit(user="ann")
    assert any_api.post("/v1/jobs", written(), token=token).status_code == 201
    any_api.checkpoint(taken, 1, note(20))
    body = {"job": written(), "space": {"seed": {"choice": [1, 2]}}}
    analysis = {"job": job_id_of(taken), "analysis": {"kind": "layer-responses"}}
    for path, sent in (
        ("/v1/jobs", written()),
        ("/v1/jobs:batch", {"jobs": [written()]}),
        ("/v1/searches", body),
        ("/v1/analyses", analysis),
        (f"/v1/jobs/{waiting}/clone", {}),
        ("/v1/datasets?name=birds", None),
    ):
        refused = any_api.post(path, sent, token=token)
        assert (refused.status_code, refused.json()["code"]) == (409, "quota-exceeded"), path
        assert refused.json()["detail"].startswith("user:ann stores 44 bytes of 41 bytes; space ")
    for found in (
        any_api.get(f"/v1/jobs/{waiting}").json(),
        any_api.get("/v1/queue", token=token).json()["jobs"][0],
    ):
        assert found["waiting"]["code"] == "limit"
        assert found["waiting"]["message"].startswith("user:ann stores 44 bytes of 41 bytes; ")
    assert any_api.checkpoint(taken, 2, note(40)).status_code == 200, "a training goes on"
    assert any_api.checkpoint(taken, 3, note(60)).status_code == 200
    logged = any_api.get(f"/v1/jobs/{job_id_of(taken)}/logs").json()["lines"]
    used = "user:ann stores 44 bytes of 41 bytes"
    message = f"{used}, with this checkpoint; new jobs and uploads are refused"
    assert [(line["level"], line["message"]) for line in logged] == [("warning", message)]
    core.finish(taken.attempt_id)
    core.release(taken)
    job_id = job_id_of(taken)
    found = any_api.get("/v1/storage", token=token).json()
    assert (found["checkpoint_bytes"], found["dataset_bytes"], found["limit_bytes"]) == (88, 0, 41)
    assert [(job["id"], job["stored_bytes"]) for job in found["largest_jobs"]] == [(job_id, 88)]
    assert any_api.get("/v1/storage?user=ann").json() == found
    assert any_api.get("/v1/storage?user=admin", token=token).status_code == 403
    assert any_api.call("DELETE", f"/v1/jobs/{job_id}", token=token).status_code == 204
    assert any_api.post("/v1/jobs", written(), token=token).status_code == 201


def test_a_quota_of_storage_is_counted_once_for_a_batch(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[str] = []
    count = storage_use.count_bytes

    def count_and_record(session: Any, keys: Any, data_dir: Any) -> dict[str, int]:
        counted.extend(keys)
        return count(session, keys, data_dir)

    monkeypatch.setattr(storage_use, "count_bytes", count_and_record)
    api.core.set_quota("user:*", stored_bytes=1000)
    assert api.post("/v1/jobs:batch", {"jobs": [written()] * 20}).status_code == 201
    assert counted == ["user:admin"]
