"""Metrics of several jobs in buckets, against each axis, and how a chart follows them."""

from typing import Any

import pytest

from service.states import Reason
from tests.support.api import Api
from tests.support.core import START, job_id_of, make_point

ENVIRONMENT = {
    "parameters": 1,
    "classes": 10,
    "train_images": 50,
    "test_images": 10,
    "device": "cpu",
    "num_workers": 1,
    "host": "here",
    "pids": [1],
    "versions": {},
}


def _loss(first: int, last: int) -> list[dict[str, Any]]:
    points = [make_point("train/loss", n, float(n)) for n in range(first, last + 1)]
    return [point.model_dump(mode="json") for point in points]


def _read(api: Api, query: str) -> dict[str, Any]:
    answer = api.get(f"/v1/metrics?{query}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_several_jobs_are_read_at_once(api: Api) -> None:
    ids = []
    for value in (1.0, 2.0):
        claimed = api.core.run()
        points = [make_point("test/error", 8, value).model_dump(mode="json")]
        api.report(claimed, 2, metrics=points)
        api.core.end(claimed, Reason.COMPLETED)
        ids.append(job_id_of(claimed))
    found = _read(api, f"job={ids[0]}&job={ids[1]}")
    assert [job["job_id"] for job in found["jobs"]] == ids
    assert [job["series"]["test/error"]["last"] for job in found["jobs"]] == [[1.0], [2.0]]


def test_a_bucket_keeps_its_first_lowest_highest_and_last_value(api: Api) -> None:
    claimed = api.core.run()
    values = [5.0, 9.0, 1.0, 4.0]
    points = [make_point("train/loss", n, value) for n, value in enumerate(values)]
    api.report(claimed, 2, metrics=[point.model_dump(mode="json") for point in points])
    (job,) = _read(api, f"job={job_id_of(claimed)}&buckets=1")["jobs"]
    assert job["width"] == 4
    assert job["series"]["train/loss"] == {
        "x": [3],
        "start": [0],
        "iteration": [3],
        "count": [4],
        "mean": [4.75],
        "first": [5.0],
        "min": [1.0],
        "max": [9.0],
        "last": [4.0],
    }


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        ("iteration", [1, 2, 3, 4]),
        ("seconds", [1, 2, 3, 4]),
        ("time", [START.timestamp() + n for n in (1, 2, 3, 4)]),
        # 128 of 50 images are a batch.
        ("epoch", [2.56, 5.12, 7.68, 10.24]),
    ],
)
def test_points_are_placed_on_each_axis(api: Api, axis: str, expected: list[float]) -> None:
    claimed = api.core.run(recipe={"batch_size": 128})
    api.report(claimed, 2, environment=ENVIRONMENT, metrics=_loss(1, 4))
    (found,) = _read(api, f"job={job_id_of(claimed)}&x={axis}")["jobs"]
    assert found["series"]["train/loss"]["x"] == expected
    ranged = _read(api, f"job={job_id_of(claimed)}&x={axis}&from={expected[1]}&to={expected[2]}")
    assert ranged["jobs"][0]["series"]["train/loss"]["x"] == expected[1:3]


def test_multiply_adds_grow_with_the_iterations(api: Api) -> None:
    claimed = api.core.run()
    api.report(claimed, 2, environment=ENVIRONMENT, metrics=_loss(1, 4))
    (job,) = _read(api, f"job={job_id_of(claimed)}&x=multiply-adds")["jobs"]
    first, *_, last = job["series"]["train/loss"]["x"]
    assert last == 4 * first > 0


def test_epochs_are_not_known_before_the_training_starts(api: Api) -> None:
    answer = api.get(f"/v1/metrics?job={api.core.submit()}&x=epoch")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/x")


def test_a_chart_follows_a_job_from_its_last_bucket_on(api: Api) -> None:
    claimed = api.core.run()
    api.report(claimed, 2, metrics=_loss(0, 4))
    query = f"job={job_id_of(claimed)}&buckets=4"
    first = _read(api, query)
    assert first["jobs"][0]["series"]["train/loss"]["start"] == [0, 2, 4]
    api.report(claimed, 3, metrics=_loss(5, 7))
    (job,) = _read(api, f"{query}&after={first['next']}")["jobs"]
    assert job["width"] == 2
    assert job["series"]["train/loss"]["start"] == [4, 6]
    assert job["series"]["train/loss"]["last"] == [5.0, 7.0]


def test_a_chart_gets_all_buckets_again_once_there_are_twice_as_many(api: Api) -> None:
    claimed = api.core.run()
    api.report(claimed, 2, metrics=_loss(0, 3))
    query = f"job={job_id_of(claimed)}&buckets=4"
    first = _read(api, query)
    api.report(claimed, 3, metrics=_loss(4, 15))
    (job,) = _read(api, f"{query}&after={first['next']}")["jobs"]
    assert (job["width"], job["series"]["train/loss"]["start"]) == (4, [0, 4, 8, 12])


@pytest.mark.parametrize(
    "query",
    ["", "job=x&buckets=0", "job=x&x=days", "job=x&from=-1", "job=x&after=%00", "job=x&after=a.b"],
)
def test_an_invalid_query_is_refused(api: Api, query: str) -> None:
    assert api.get(f"/v1/metrics?{query}").status_code == 422


def test_an_unknown_job_is_not_found(api: Api) -> None:
    answer = api.get("/v1/metrics?job=0665a1c66j5pnr4p")
    assert answer.status_code == 404
