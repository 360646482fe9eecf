"""Searches over HTTP: submitted, shown, followed, exported, steered."""

import io
import zipfile
from typing import Any

import pytest

from tests.support.api import Api
from tests.support.searching import Searching, search_body


@pytest.fixture
def searching(api: Api) -> Searching:
    return Searching(api.core)


def _submit(api: Api, **fields: Any) -> dict[str, Any]:
    answer = api.post("/v1/searches", search_body(**fields))
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def _one_trial(searching: Searching) -> str:
    """A search that has ended after its only trial."""
    search_id = searching.run(budget={"trials": 1})
    searching.assign_trial(search_id, "a")
    searching.train(5.0)
    searching.finish_driver(search_id)
    return search_id


def test_a_search_is_saved_whole_and_found_again(any_api: Api) -> None:
    made = _submit(any_api, metric="test/error", scheduler="asha")
    assert (made["state"], made["user"]) == ("queued", "admin")
    assert made["spec"]["scheduler"]["reduction_factor"] == 3
    shown = any_api.get(f"/v1/searches/{made['id']}").json()
    assert shown["used"] == {"trials": 0, "iterations": 0, "wall_seconds": 0.0}
    assert shown["best"] == []
    (listed,) = any_api.get("/v1/searches").json()["searches"]
    assert (listed["id"], listed["best"]) == (made["id"], None)


def test_the_same_key_answers_the_first_search(api: Api) -> None:
    headers = {"Idempotency-Key": "once"}
    first = api.post("/v1/searches", search_body(), headers=headers)
    again = api.post("/v1/searches", search_body(), headers=headers)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["Idempotency-Replayed"] == "true"
    other = api.post("/v1/searches", search_body(seed=3), headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-mismatch")


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"space": {"depth": {"choice": [8, 9]}}}, "/space/depth/choice"),
        ({"space": {}}, "/space"),
        ({"algorithm": "grid"}, "/algorithm"),
        ({"budget": {"trials": 0}}, "/budget/trials"),
        ({"job": {"depth": 8}}, "/space/recipe.learning_rate/loguniform"),
    ],
)
def test_a_search_that_is_wrong_is_told_where(
    api: Api, fields: dict[str, Any], pointer: str
) -> None:
    answer = api.post("/v1/searches", search_body(**fields))
    assert answer.status_code == 422
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]


def test_trials_stand_by_rank_with_why_they_were_stopped(api: Api, searching: Searching) -> None:
    search_id = searching.run(scheduler="asha")
    searching.assign_trial(search_id, "a", 0.1)
    searching.assign_trial(search_id, "b", 0.2)
    searching.train(5.0)
    searching.stop_trial(search_id, "b")
    first, second = api.get(f"/v1/searches/{search_id}/trials").json()["trials"]
    assert (first["number"], first["rank"], first["values"]) == (1, 0, {"test/error": 5.0})
    assert (second["reason"], second["rank"]) == ("early-stopped", None)
    assert "stopped by asha" in second["stop_reason"]
    best = api.get(f"/v1/searches/{search_id}").json()["best"]
    assert [trial["number"] for trial in best] == [1]


def test_an_export_has_a_line_for_each_trial(api: Api, searching: Searching) -> None:
    search_id = _one_trial(searching)
    answer = api.get(f"/v1/searches/{search_id}/export?format=csv")
    assert answer.headers["Content-Type"].startswith("text/csv")
    header, line = answer.text.splitlines()
    assert header == "trial,job_id,state,reason,rank,recipe.learning_rate,test/error,stop_reason"
    assert line.endswith(",succeeded,completed,0,0.1,5.0,")
    assert len(api.get(f"/v1/searches/{search_id}/export").json()["trials"]) == 1
    assert api.get(f"/v1/searches/{search_id}/export?format=xml").status_code == 422


def test_tensorboards_hparams_are_a_folder_for_each_trial(api: Api, searching: Searching) -> None:
    answer = api.get(f"/v1/searches/{_one_trial(searching)}/export?format=tensorboard")
    assert answer.headers["Content-Type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        (name,) = archive.namelist()
        content = archive.read(name)
    assert name.startswith("trial-00001/events.out.tfevents")
    assert b"recipe.learning_rate" in content
    assert b"test/error" in content


def test_importance_of_few_trials_is_empty(api: Api, searching: Searching) -> None:
    search_id = _one_trial(searching)
    answer = api.get(f"/v1/searches/{search_id}/importance").json()
    assert answer == {"importance": {"test/error": {"trials": 1, "shares": {}}}}


def test_the_stream_tells_all_events_and_how_the_search_stands(
    api: Api, searching: Searching
) -> None:
    search_id = _one_trial(searching)
    with api.stream(search_id, of="searches") as stream:
        told = list(stream)
    kinds = [one["event"] for one in told]
    assert kinds[0] == "progress"
    assert kinds[1:] == ["submitted", "state", "driver", "trial", "state"]
    assert told[0]["data"]["best"][0]["values"] == {"test/error": 5.0}
    read = api.get(f"/v1/searches/{search_id}/events?after=4").json()["events"]
    assert [event["number"] for event in read] == [5]


def test_steering_answers_the_search_as_it_stands(api: Api, searching: Searching) -> None:
    search_id = searching.run()
    path = f"/v1/searches/{search_id}"
    assert api.post(f"{path}/pause").json()["state"] == "paused"
    assert api.post(f"{path}/resume").json()["state"] == "queued"
    assert api.post(f"{path}/extend", {"trials": 8}).json()["spec"]["budget"]["trials"] == 8
    assert api.post(f"{path}/extend", {"tries": 8}).status_code == 422
    changed = api.call("PATCH", path, json={"priority": 70}).json()
    assert changed["spec"]["job"]["priority"] == 70
    assert api.call("DELETE", path).status_code == 409
    assert api.post(f"{path}/cancel").json()["state"] == "cancelled"
    assert api.post(f"{path}/resume").json()["code"] == "illegal-transition"
    searching.terminate_driver(search_id)
    assert api.call("DELETE", path).status_code == 204
    assert api.get(path).status_code == 404


def test_a_trials_job_is_deleted_with_its_search_only(api: Api, searching: Searching) -> None:
    search_id = _one_trial(searching)
    (trial,) = api.get(f"/v1/searches/{search_id}/trials").json()["trials"]
    answer = api.call("DELETE", f"/v1/jobs/{trial['job_id']}")
    assert answer.status_code == 409


def test_a_search_needs_a_persons_token(api: Api) -> None:
    assert api.get("/v1/searches", token=None).status_code == 401


def test_pages_of_searches_follow_each_other(api: Api) -> None:
    made = [_submit(api)["id"] for _ in range(3)]
    first = api.get("/v1/searches?limit=2").json()
    rest = api.get(f"/v1/searches?limit=2&page_token={first['next_page_token']}").json()
    found = [one["id"] for one in first["searches"] + rest["searches"]]
    assert sorted(found) == sorted(made)
    assert api.get("/v1/searches?page_token=!").status_code == 422
    assert api.get("/v1/searches?id_prefix=!").json()["searches"] == []
    assert len(api.get(f"/v1/searches?id_prefix={made[0]}").json()["searches"]) == 1
