"""Studies and comparisons over HTTP."""

from typing import Any

import pytest

from tests.support.api import Api
from tests.support.core import job_id_of, note, written
from tests.support.studies import TINY, definition, finish_next

_FORMATS = {
    "md": "text/markdown",
    "tex": "application/x-tex",
    "csv": "text/csv",
    "svg": "image/svg+xml",
    "png": "image/png",
}


def _submit(api: Api, **fields: Any) -> dict[str, Any]:
    response = api.post("/v1/studies", {"definition": definition()} | fields)
    assert response.status_code == 201, response.text
    document: dict[str, Any] = response.json()
    return document


def test_a_study_of_the_service_is_submitted_by_its_name(api: Api) -> None:
    response = api.post("/v1/studies", {"study": "fig6", "scale": "smoke", "seeds": 1})
    study = response.json()
    assert response.status_code == 201, response.text
    assert response.headers["location"] == f"/v1/studies/{study['id']}"
    labels = [member["label"] for member in study["members"]]
    assert labels == ["plain-20", "plain-44", "resnet-20", "resnet-44"]
    assert study["origin"] == (
        "Scale smoke, dataset digits, 1 seed; 0 of 4 jobs finished. The paper's numbers are of its "
        "full recipe on cifar10 and are not comparable with these."
    )
    names = [found["name"] for found in api.get("/v1/study-definitions").json()["definitions"]]
    assert "fig6" in names
    assert api.post("/v1/studies", {"study": "fig99"}).status_code == 404


def test_a_study_is_read_listed_reported_and_deleted_without_its_jobs(api: Api) -> None:
    study = _submit(api, seeds=1)
    path = f"/v1/studies/{study['id']}"
    api.core.record_cluster(cpus=8)
    finish_next(api.core, 12.0)
    found = api.get(path).json()
    (plain, residual) = found["members"]
    assert plain["results"]["test/error"]["statistics"]["mean"] == 12.0
    assert residual["gap"] == "of 1 seed: 1 queued"
    assert found["differences"][0]["n"] == 0
    assert [found["id"] for found in api.get("/v1/studies").json()["studies"]] == [study["id"]]
    for file_format, media_type in _FORMATS.items():
        response = api.get(f"{path}/report?format={file_format}")
        assert response.headers["content-type"].startswith(media_type)
        assert len(response.content) > 100
    assert api.call("DELETE", path).status_code == 204
    assert api.get(path).status_code == 404
    assert api.get(f"/v1/jobs/{plain['jobs'][0]['job_id']}").status_code == 200


def test_an_idempotency_key_creates_one_study(api: Api) -> None:
    headers = {"Idempotency-Key": "once"}
    body = {"definition": definition(), "seeds": 1}
    first, second = (api.post("/v1/studies", body, headers=headers) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    assert len(api.get("/v1/studies").json()["studies"]) == 1


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, None),
        ({"study": "fig6", "definition": definition()}, None),
        ({"study": "fig6", "scale": "huge"}, "/scale"),
        ({"study": "fig6", "seeds": 0}, "/seeds"),
        ({"study": "fig6", "dataset": "no-such"}, "/members/plain-20/dataset"),
        ({"study": "fig6", "job": {"recipe": {"batch_size": 0}}}, "/members/plain-20/recipe"),
    ],
)
def test_a_wrong_study_is_refused_with_the_field(
    api: Api, body: dict[str, Any], pointer: str | None
) -> None:
    response = api.post("/v1/studies", body)
    assert response.status_code == 422, response.text
    pointers = [error["pointer"] for error in response.json()["errors"]]
    assert pointer is None or any(found.startswith(pointer) for found in pointers), pointers


def test_a_comparison_pairs_the_jobs_of_equal_seeds(api: Api) -> None:
    body = {
        "a": written(recipe=TINY, shortcut="A"),
        "b": written(recipe=TINY, shortcut="none"),
        "seeds": 2,
    }
    response = api.post("/v1/comparisons", body)
    assert response.status_code == 201, response.text
    path = response.headers["location"]
    api.core.record_cluster(cpus=8)
    for error in (8.0, 9.0, 8.5, 9.5):
        finish_next(api.core, error)
    found = api.get(path).json()
    assert (found["finished"], found["total"]) == (4, 4)
    difference = found["difference"]
    assert (difference["n"], difference["mean"], difference["is_significant"]) == (2, -1.0, False)
    again = api.post("/v1/comparisons", body | {"seeds": 3}).json()
    assert (again["finished"], again["total"]) == (4, 6)


def test_a_study_is_no_comparison(api: Api) -> None:
    study = _submit(api, seeds=1)
    assert api.get(f"/v1/comparisons/{study['id']}").status_code == 404


def test_the_end_of_a_training_submits_the_analyses_of_its_studies(api: Api) -> None:
    api.core.record_cluster(cpus=8)
    analyses = {"responses": {"kind": "layer-responses"}}
    study = _submit(api, definition=definition(analyses=analyses), seeds=1)
    attempt = api.core.start_next()
    api.checkpoint(attempt, 1, note(20, test_error=9.0))
    result = {"train_error": 9.0, "test_error": 9.0, "training_seconds": 1.0}
    finish = {"reason": "completed", "result": result}
    for _ in range(2):
        assert api.attempt(attempt, "POST", "/finish", json=finish).status_code == 200
    found = api.get(f"/v1/studies/{study['id']}").json()
    assert (found["finished"], found["total"]) == (1, 4)
    [[listed], []] = [member["analyses"][0]["jobs"] for member in found["members"]]
    assert listed["state"] == "queued"
    [analysis] = api.get(f"/v1/jobs/{job_id_of(attempt)}/analyses").json()["analyses"]
    assert analysis["job_id"] == listed["job_id"]
