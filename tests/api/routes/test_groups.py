"""`GET /v1/groups`."""

from typing import Any

import pytest

from tests.support.api import Api
from tests.support.core import job_id_of, make_point


def _train(api: Api, value: float, **fields: Any) -> str:
    claimed = api.core.run(**fields)
    points = [make_point("test/error", n, value).model_dump(mode="json") for n in (1, 2)]
    api.report(claimed, 2, metrics=points)
    result = {"train_error": 1.0, "test_error": value, "training_seconds": 2.0}
    body = {"reason": "completed", "result": result}
    assert api.attempt(claimed, "POST", "/finish", json=body).status_code == 200
    return job_id_of(claimed)


def test_seeds_are_grouped_with_statistics_of_results_and_series(api: Api) -> None:
    ids = [_train(api, 4.0, seed=1), _train(api, 6.0, seed=2)]
    (group,) = api.get("/v1/groups?series=test/error").json()["groups"]
    assert [job["id"] for job in group["jobs"]] == ids[::-1]
    assert [job["seed"] for job in group["jobs"]] == [2, 1]
    assert group["results"]["test_error"]["mean"] == 5.0
    assert group["series"]["test/error"]["n"] == [2, 2]
    assert group["series"]["test/error"]["x"] == [1, 2]


def test_groups_are_of_the_jobs_that_match_the_filters(api: Api) -> None:
    kept = _train(api, 4.0, seed=1, tags=["course"])
    _train(api, 6.0, seed=2)
    (group,) = api.get("/v1/groups?tag=course").json()["groups"]
    assert [job["id"] for job in group["jobs"]] == [kept]
    assert group["series"] == {}


def test_jobs_may_be_named_archived_ones_too(api: Api) -> None:
    first, _, third = (api.core.submit(seed=seed) for seed in (1, 2, 3))
    assert api.call("PATCH", f"/v1/jobs/{first}", json={"archived": True}).status_code == 200
    found = api.get(f"/v1/groups?by=id&job={first}&job={third}").json()
    assert [[job["id"] for job in group["jobs"]] for group in found["groups"]] == [
        [third],
        [first],
    ]


@pytest.mark.parametrize("parameter", ["by", "where"])
def test_wrong_parameters_are_named(api: Api, parameter: str) -> None:
    answer = api.get(f"/v1/groups?{parameter}=nonsense")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, f"/{parameter}")


def test_more_jobs_than_one_response_holds_are_refused(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routes.groups._MAX_JOBS", 1)
    api.core.submit()
    assert api.get("/v1/groups").status_code == 200
    api.core.submit()
    answer = api.get("/v1/groups")
    assert answer.status_code == 422
    assert "at most 1 job" in answer.json()["errors"][0]["message"]


def test_groups_are_compared_over_pairs_of_equal_seeds(api: Api) -> None:
    for seed in (1, 2, 3):
        for error, depth in ((8.0, 14), (6.0, 8)):
            api.core.clock.advance(1.0)
            _train(api, error + seed, seed=seed, depth=depth)
    api.core.clock.advance(1.0)
    _train(api, 1.0, seed=4, depth=8)  # without a partner
    assert api.get("/v1/groups").json()["differences"] == []
    found = api.get("/v1/groups?metric=test/error").json()
    assert [group["fields"]["depth"] for group in found["groups"]] == [8, 14]
    (difference,) = found["differences"]
    assert (difference["a"], difference["b"], difference["n"]) == (0, 1, 3)
    assert (difference["mean"], difference["is_significant"]) == (-2.0, False)
    assert difference["text"].startswith("test error: smaller by 2.00 points in every pair")


def test_groups_of_two_datasets_or_without_equal_seeds_have_no_difference(api: Api) -> None:
    _train(api, 8.0, seed=1)
    _train(api, 8.0, seed=2, depth=14)
    _train(api, 8.0, seed=1, dataset="fake")
    found = api.get("/v1/groups?metric=test/error").json()
    assert [(difference["n"], difference["mean"]) for difference in found["differences"]] == [
        (0, None),
        (0, None),
    ]
    assert "no pair" in found["differences"][0]["text"]


def test_too_many_groups_are_not_compared(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.routes.groups._MAX_COMPARED", 1)
    for depth in (8, 14):
        api.core.submit(depth=depth)
    answer = api.get("/v1/groups?metric=test/error")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/metric")
