"""Analyses over HTTP."""

from typing import Any

import pytest

from service.specs.analysis_spec import LayerResponsesSpec
from service.states import CheckpointPart
from tests.support.analyses import LAYER_RESPONSES, finish_analysis, finish_training
from tests.support.api import Api
from tests.support.core import content, job_id_of, note


def _submit(api: Api, job_id: str, **fields: Any) -> dict[str, Any]:
    response = api.post("/v1/analyses", {"job": job_id, "analysis": LAYER_RESPONSES} | fields)
    assert response.status_code == 201, response.text
    document: dict[str, Any] = response.json()
    assert response.headers["location"] == f"/v1/jobs/{document['id']}"
    return document


def test_an_analysis_is_submitted_listed_and_read(api: Api) -> None:
    source = finish_training(api.core)
    job = _submit(api, source)
    assert (job["kind"], job["spec"]["analysis"]["kind"]) == ("layer-responses",) * 2
    path = f"/v1/jobs/{job['id']}/analysis"
    assert api.get(path).status_code == 404
    finish_analysis(api.core)
    [listed] = api.get(f"/v1/jobs/{source}/analyses").json()["analyses"]
    assert listed["state"] == "succeeded"
    assert listed["numbers"] == {"layers": 3, "mean_std": 2.0}
    result = api.get(path).json()
    assert result["tables"][0]["rows"][0] == [1, "conv1", 1.0, 0.5]
    kinds = [found["kind"] for found in api.get("/v1/jobs?kind=layer-responses").json()["jobs"]]
    assert kinds == ["layer-responses"]


def test_a_repeated_submission_returns_the_same_analysis(api: Api) -> None:
    source = finish_training(api.core)
    body = {"job": source, "analysis": LAYER_RESPONSES}
    first, second = (
        api.post("/v1/analyses", body, headers={"Idempotency-Key": "once"}) for _ in range(2)
    )
    assert first.json()["id"] == second.json()["id"]
    assert second.headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize(
    ("analysis", "pointer"),
    [
        ({"kind": "horoscope"}, "/analysis"),
        ({"kind": "layer-responses", "images": 0}, "/analysis/images"),
        ({"kind": "layer-responses", "split": "train"}, "/analysis/split"),
    ],
)
def test_a_field_error_names_the_field_as_it_was_written(
    api: Api, analysis: dict[str, Any], pointer: str
) -> None:
    body = {"job": "0" * 16, "analysis": analysis}
    response = api.post("/v1/analyses", body)
    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == [pointer]


def test_the_result_is_a_table_and_a_figure_with_equal_bytes(api: Api) -> None:
    job = _submit(api, finish_training(api.core))
    finish_analysis(api.core)
    path = f"/v1/jobs/{job['id']}/analysis"
    table = api.get(f"{path}?format=csv")
    assert table.text == (
        "layer,name,std,mean\n1,conv1,1.0,0.5\n2,layer1.0.conv1,3.0,\n3,x,2.0,0.0\n"
    )
    assert api.get(f"{path}?format=csv&table=numbers").text.startswith("name,value\nlayers,3.0\n")
    assert api.get(f"{path}?format=csv&table=other").status_code == 404
    drawn = api.get(f"{path}?format=svg")
    assert drawn.headers["content-type"].startswith("image/svg+xml")
    for text in ("layer index (original)", "sorted by magnitude", "resnet-8-A on digits"):
        assert text in drawn.text
    assert api.get(f"{path}?format=svg").content == drawn.content
    assert api.get(f"{path}?format=png").content.startswith(b"\x89PNG")


def test_groups_are_of_trainings_only(api: Api) -> None:
    source = finish_training(api.core)
    _submit(api, source)
    [group] = api.get("/v1/groups").json()["groups"]
    assert [job["id"] for job in group["jobs"]] == [source]


def test_the_attempt_downloads_the_weights_of_further_checkpoints(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LayerResponsesSpec, "max_others", 1)
    trained = api.core.start()
    api.checkpoint(trained, 1, note(20))
    api.core.finish(trained.attempt_id)
    api.core.release(trained)
    others = [{"job": job_id_of(trained)}]
    _submit(api, job_id_of(trained), analysis=LAYER_RESPONSES | {"others": others})
    attempt = api.core.start_next()
    response = api.attempt(attempt, path="/others/0/weights")
    assert response.content == content(CheckpointPart.WEIGHTS, 20)
    assert api.attempt(attempt, path="/others/1/weights").status_code == 404
