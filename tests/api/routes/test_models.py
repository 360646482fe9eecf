"""The routes of the model registry: register, promote, download by name, and who may."""

from typing import Any

import pytest

from service.states import CheckpointPart, Role, TokenScope
from tests.support.api import TOKEN, Api
from tests.support.core import content, job_id_of, note

NAME = "resnet-8/course"
REF = "/v1/models:resolve?ref="


def _train(api: Api, iteration: int = 20, user: str = "ann") -> str:
    """The id of a finished job with a checkpoint."""
    core = api.core
    running = core.start(user=user)
    assert api.checkpoint(running, 1, note(iteration, test_error=5.0)).status_code == 200
    core.finish(running.attempt_id)
    core.release(running)
    return job_id_of(running)


def _register(api: Api, token: str, **fields: Any) -> dict[str, Any]:
    made = api.post("/v1/models", {"name": NAME} | fields, token=token)
    assert made.status_code == 201, made.text
    found: dict[str, Any] = made.json()
    return found


def _promote(api: Api, model_id: str, version: int, token: str, note: str = "") -> int:
    path = f"/v1/models/{model_id}/aliases/production"
    body = {"version": version, "note": note}
    return api.call("PUT", path, json=body, token=token).status_code


def _list_names(api: Api, job_id: str, token: str | None = TOKEN) -> list[str]:
    """Of the job's only checkpoint."""
    (row,) = api.get(f"/v1/jobs/{job_id}/checkpoints", token=token).json()["checkpoints"]
    names: list[str] = row["names"]
    return names


def test_weights_are_downloaded_by_a_name_that_is_promoted_and_rolled_back(any_api: Api) -> None:
    before = any_api.list_audit("model-promoted")
    ann = any_api.add_person("ann")
    jobs = [_train(any_api, 20), _train(any_api, 30)]
    first, second = (_register(any_api, ann, job=job, note="nightly") for job in jobs)
    assert (second["version"], second["job_id"], second["note"]) == (2, jobs[1], "nightly")
    assert second["lineage"]["test_error"] == 5.0
    model_id = first["model_id"]
    path = f"/v1/models:download?ref={NAME}@production"
    assert any_api.get(path).status_code == 404
    for version, iteration in ((1, 20), (2, 30), (1, 20)):
        any_api.core.clock.advance(1.0)
        assert _promote(any_api, model_id, version, ann, "as tested") == 200
        answer = any_api.get(path)
        assert answer.content == content(CheckpointPart.WEIGHTS, iteration)
        name = f'filename="resnet-8-course-v{version}.safetensors"'
        assert name in answer.headers["Content-Disposition"]
    (model,) = any_api.get("/v1/models").json()["models"]
    assert (model["name"], model["newest_version"], model["user"]) == (NAME, 2, "ann")
    (alias,) = model["aliases"]
    assert (alias["version"], alias["user"], alias["note"]) == (1, "ann", "as tested")
    listed = any_api.get(f"/v1/models/{model_id}/versions").json()["versions"]
    assert [(row["version"], row["aliases"]) for row in listed] == [(2, []), (1, ["production"])]
    names = [_list_names(any_api, job_id) for job_id in jobs]
    assert names == [[f"{NAME}@1", f"{NAME}@production"], [f"{NAME}@2"]]
    history = any_api.get(f"/v1/models/{model_id}/events").json()["events"]
    assert [event["kind"] for event in history] == ["registered"] * 2 + ["promoted"] * 3
    assert {event["user"] for event in history} == {"ann"}
    promotions = any_api.list_audit("model-promoted", but=before)
    assert [entry["data"]["to"] for entry in promotions] == [1, 2, 1]
    assert {(entry["user"], entry["subject"]) for entry in promotions} == {("ann", NAME)}


def test_a_job_with_a_registered_version_is_not_deleted(any_api: Api) -> None:
    before = any_api.list_audit("model-deleted")
    ann = any_api.add_person("ann")
    job_id = _train(any_api)
    model_id = _register(any_api, ann, job=job_id)["model_id"]
    refused = any_api.call("DELETE", f"/v1/jobs/{job_id}", token=ann)
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert f"the weights of {NAME}@1" in refused.json()["detail"]
    assert any_api.call("DELETE", f"/v1/models/{model_id}", token=ann).status_code == 204
    (entry,) = any_api.list_audit("model-deleted", but=before)
    assert (entry["user"], entry["subject"]) == ("ann", NAME)
    assert any_api.call("DELETE", f"/v1/jobs/{job_id}", token=ann).status_code == 204


def test_members_register_their_own_viewers_read_and_admins_do_all(api: Api) -> None:
    ann, ben = api.add_person("ann"), api.add_person("ben")
    viewer = api.add_person("vera", Role.VIEWER)
    model_id = _register(api, ann, job=_train(api))["model_id"]
    body = {"name": NAME, "job": _train(api, user="ben")}
    for token, detail in (
        (ben, f"only ann, who owns model {NAME}, or an admin may do this; ben is a member"),
        (viewer, "needs the role member; vera is a viewer"),
    ):
        refused = api.post("/v1/models", body, token=token)
        assert (refused.status_code, refused.json()["detail"]) == (403, detail)
    assert [_promote(api, model_id, 1, token) for token in (ben, viewer)] == [403, 403]
    assert api.get(f"{REF}{NAME}", token=viewer).json()["version"] == 1
    assert api.get(f"/v1/models:download?ref={NAME}", token=viewer).status_code == 200
    assert api.post("/v1/models", body, token=TOKEN).json()["version"] == 2
    assert _promote(api, model_id, 2, TOKEN) == 200


def test_the_removal_of_an_alias_is_in_the_history_and_the_audit_log(api: Api) -> None:
    ann, earlier = api.add_person("ann"), api.list_audit("model-alias-removed")
    model_id = _register(api, ann, job=_train(api))["model_id"]
    assert _promote(api, model_id, 1, ann) == 200
    path = f"/v1/models/{model_id}/aliases/production"
    assert api.call("DELETE", path, token=ann).status_code == 204
    assert api.call("DELETE", path, token=ann).status_code == 404
    *_, event = api.get(f"/v1/models/{model_id}/events").json()["events"]
    (entry,) = api.list_audit("model-alias-removed", but=earlier)
    assert (entry["user"], entry["subject"]) == ("ann", NAME)
    assert event["data"] == entry["data"] == {"alias": "production", "from": 1}


def test_a_token_that_submits_registers_and_does_not_promote(api: Api) -> None:
    ann = api.add_person("ann", scope=TokenScope.SUBMIT)
    model_id = _register(api, ann, job=_train(api))["model_id"]
    assert _promote(api, model_id, 1, ann) == 403


def test_members_who_see_what_is_theirs_find_no_model_of_others(any_own_api: Api) -> None:
    api = any_own_api
    ann, ben = api.add_person("ann"), api.add_person("ben")
    job_id = _train(api, user="ben")
    model_id = _register(api, TOKEN, job=job_id)["model_id"]
    assert api.get("/v1/models", token=ben).json()["models"] == []
    assert _list_names(api, job_id, ben) == []
    assert _list_names(api, job_id) == [f"{NAME}@1"]
    for path in (
        f"{REF}{NAME}",
        f"/v1/models:download?ref={NAME}",
        f"/v1/models/{model_id}/versions",
    ):
        assert api.get(path, token=ben).status_code == 404, path
    taken = api.post("/v1/models", {"name": NAME, "job": job_id}, token=ben)
    assert (taken.status_code, taken.json()["detail"]) == (409, f"the name {NAME!r} is taken")
    refused = api.call("DELETE", f"/v1/jobs/{job_id}", token=ben)
    assert (refused.status_code, NAME in refused.text) == (409, False)
    assert "has the weights of a registered model" in refused.json()["detail"]
    own = _register(api, ann, name="own", job=_train(api))
    assert [row["id"] for row in api.get("/v1/models", token=ann).json()["models"]] == [
        own["model_id"]
    ]


@pytest.mark.parametrize(
    "name", ["", "/", "a//b", "-a", "a@b", "a/", "a b", "ä", "a\n", "../a", "x" * 121]
)
def test_a_name_that_a_reference_cannot_hold_is_refused(api: Api, name: str) -> None:
    refused = api.post("/v1/models", {"name": name, "job": "0" * 16})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == "/name"


@pytest.mark.parametrize("alias", ["3", "Production", "a@b", "-a", "a" * 64])
def test_an_alias_is_a_word(api: Api, alias: str) -> None:
    path = f"/v1/models/{'0' * 16}/aliases/{alias}"
    refused = api.call("PUT", path, json={"version": 1})
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert error["message"].startswith("must be at most 63 lower-case letters, digits and '-'")


@pytest.mark.parametrize("ref", ["", "a@", "a@B", "a@1@2", "a@0", "@1"])
def test_a_text_that_is_no_reference_is_refused_with_the_forms_of_one(api: Api, ref: str) -> None:
    refused = api.get(f"/v1/models:resolve?ref={ref}")
    (error,) = refused.json()["errors"]
    assert error["message"].startswith("must be NAME@ALIAS, NAME@NUMBER or NAME, as ")
    assert error["message"].endswith(f"; received {ref!r}")


def test_pages_of_models_are_followed_by_their_token(api: Api) -> None:
    job_id = _train(api, user="admin")
    for number in range(3):
        _register(api, TOKEN, name=f"model-{number}", job=job_id)
        api.core.clock.advance(1.0)
    first = api.get("/v1/models?limit=2").json()
    rest = api.get(f"/v1/models?limit=2&page_token={first['next_page_token']}").json()
    names = [row["name"] for page in (first, rest) for row in page["models"]]
    assert names == ["model-2", "model-1", "model-0"]
    assert rest["next_page_token"] is None
