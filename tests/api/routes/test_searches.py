"""Routes of searches."""

from typing import Any

import pytest
from sqlalchemy import text

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


def _finished_search(searching: Searching) -> str:
    """A search whose only trial has succeeded."""
    search_id = searching.run(budget={"trials": 1})
    searching.assign_trial(search_id, "a")
    searching.train(5.0)
    searching.finish_driver(search_id)
    return search_id


def test_a_submitted_search_is_returned_shown_and_listed(any_api: Api) -> None:
    made = _submit(any_api, metric="test/error", scheduler="asha")
    assert (made["state"], made["user"]) == ("queued", "admin")
    assert made["spec"]["scheduler"]["reduction_factor"] == 3
    shown = any_api.get(f"/v1/searches/{made['id']}").json()
    assert shown["used"] == {"trials": 0, "iterations": 0, "wall_seconds": 0.0}
    assert shown["best"] == []
    (listed,) = any_api.get("/v1/searches").json()["searches"]
    assert (listed["id"], listed["best"]) == (made["id"], None)


def test_a_repeated_key_returns_the_first_search(api: Api) -> None:
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
def test_an_invalid_search_is_refused_with_its_pointer(
    api: Api, fields: dict[str, Any], pointer: str
) -> None:
    answer = api.post("/v1/searches", search_body(**fields))
    assert answer.status_code == 422
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]


def test_trials_are_listed_by_rank_with_their_stop_reason(api: Api, searching: Searching) -> None:
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
    search_id = _finished_search(searching)
    answer = api.get(f"/v1/searches/{search_id}/export?format=csv")
    assert answer.headers["Content-Type"].startswith("text/csv")
    header, line = answer.text.splitlines()
    assert header == "trial,job_id,state,reason,rank,recipe.learning_rate,test/error,stop_reason"
    assert line.endswith(",succeeded,completed,0,0.1,5.0,")
    assert len(api.get(f"/v1/searches/{search_id}/export").json()["trials"]) == 1
    assert api.get(f"/v1/searches/{search_id}/export?format=xml").status_code == 422


def test_importance_of_few_trials_is_empty(api: Api, searching: Searching) -> None:
    search_id = _finished_search(searching)
    answer = api.get(f"/v1/searches/{search_id}/importance").json()
    assert answer == {"importance": {"test/error": {"trials": 1, "shares": {}}}}


def test_an_action_returns_the_changed_search(api: Api, searching: Searching) -> None:
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


def test_the_job_of_a_trial_is_deleted_only_with_its_search(api: Api, searching: Searching) -> None:
    search_id = _finished_search(searching)
    (trial,) = api.get(f"/v1/searches/{search_id}/trials").json()["trials"]
    answer = api.call("DELETE", f"/v1/jobs/{trial['job_id']}")
    assert answer.status_code == 409


def test_searches_need_a_token(api: Api) -> None:
    assert api.get("/v1/searches", token=None).status_code == 401


def test_searches_are_listed_in_pages(api: Api) -> None:
    made = [_submit(api)["id"] for _ in range(3)]
    first = api.get("/v1/searches?limit=2").json()
    rest = api.get(f"/v1/searches?limit=2&page_token={first['next_page_token']}").json()
    found = [search["id"] for search in first["searches"] + rest["searches"]]
    assert sorted(found) == sorted(made)
    assert api.get("/v1/searches?page_token=!").status_code == 422
    assert api.get("/v1/searches?id_prefix=!").json()["searches"] == []
    assert len(api.get(f"/v1/searches?id_prefix={made[0]}").json()["searches"]) == 1


def test_a_space_is_checked_before_the_write_lock(api: Api) -> None:
    # On SQLite a transaction that writes locks the database.
    with api.core.database.transaction() as session:
        session.execute(text("SELECT 1"))
        body = search_body(space={"depth": {"choice": [8, 9]}})
        response = api.post("/v1/searches", body)
    assert (response.status_code, response.json()["code"]) == (422, "invalid-input")
