"""Routes of jobs: submission, lists, one job and its records."""

import csv
import io
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.jobs import lifecycle
from service.specs.job_spec import JobSpec
from service.states import Reason
from tests.support.api import RFC_3339, Api
from tests.support.core import START, cancelled, job_id_of, make_point, note, workers, written


def _ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["jobs"]]


def test_depth_shortcut_and_dataset_suffice_for_a_job(api: Api) -> None:
    answer = api.post("/v1/jobs", written())
    assert answer.status_code == 201
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['id']}"
    assert "Idempotency-Replayed" not in answer.headers
    assert (job["state"], job["attempts"], job["restarts"]) == ("queued", 0, 0)
    assert job["network"] == "resnet-8-A"
    assert job["name"] == "resnet-8-A on digits"
    assert job["created_at"] == START.strftime(RFC_3339)
    assert job["stop_requested"] is None
    unknown = ("reason", "message", "started_at", "finished_at", "progress", "parameters", "result")
    assert [job[name] for name in unknown] == [None] * len(unknown)


def test_a_submitted_job_is_returned_with_its_complete_spec(api: Api) -> None:
    spec = api.post("/v1/jobs", written(seed=7, tags=["mine"])).json()["spec"]
    assert {"depth": 8, "shortcut": "A", "dataset": "digits", "seed": 7}.items() <= spec.items()
    assert spec["family"] == "cifar"
    assert spec["recipe"]["name"] == "quick"
    assert spec["resources"] == {
        "num_workers": 1,
        "cpus_per_worker": 1,
        "gpus_per_worker": None,
    }
    again = api.post("/v1/jobs", spec).json()["spec"]
    assert again == spec


def test_the_location_of_a_submitted_job_is_its_url(api: Api) -> None:
    answer = api.post("/v1/jobs", written())
    found = api.get(answer.headers["Location"]).json()
    assert found | {"waiting": None} == answer.json()


def test_the_user_of_a_job_is_the_name_of_its_token(api: Api) -> None:
    assert api.post("/v1/jobs", written()).json()["user"] == "admin"


def test_a_repeated_key_returns_the_first_job(api: Api) -> None:
    key = {"Idempotency-Key": "once"}
    first = api.post("/v1/jobs", written(), headers=key)
    again = api.post("/v1/jobs", written(), headers=key)
    assert again.status_code == 201
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert again.json() == first.json()
    assert len(_ids(api.get("/v1/jobs"))) == 1


def test_a_replay_returns_the_current_job(api: Api) -> None:
    key = {"Idempotency-Key": "once"}
    job_id = api.post("/v1/jobs", written(), headers=key).json()["id"]
    api.core.cancel(job_id)
    assert api.post("/v1/jobs", written(), headers=key).json()["state"] == "cancelled"


def test_a_key_is_compared_with_the_validated_spec(api: Api) -> None:
    key = {"Idempotency-Key": "once"}
    first = api.post("/v1/jobs", written(), headers=key).json()
    again = api.post("/v1/jobs", written(seed=0, priority=50), headers=key)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json()["id"] == first["id"]


def test_a_key_with_another_body_is_refused(api: Api) -> None:
    key = {"Idempotency-Key": "once"}
    first = api.post("/v1/jobs", written(), headers=key).json()
    answer = api.post("/v1/jobs", written(seed=1), headers=key)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency-mismatch")
    assert first["id"] in answer.json()["detail"]
    assert len(_ids(api.get("/v1/jobs"))) == 1


def test_a_refused_request_does_not_use_its_key(api: Api) -> None:
    key = {"Idempotency-Key": "once"}
    assert api.post("/v1/jobs", written(depth=9), headers=key).status_code == 422
    answer = api.post("/v1/jobs", written(), headers=key)
    assert answer.status_code == 201
    assert "Idempotency-Replayed" not in answer.headers


@pytest.mark.parametrize("key", ["", "k" * 201, b"caf\xe9"])
def test_an_invalid_key_is_refused(api: Api, key: str | bytes) -> None:
    answer = api.post("/v1/jobs", written(), headers={b"Idempotency-Key": key})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/idempotency-key"


def test_a_batch_creates_all_jobs_or_none(api: Api) -> None:
    good = {"jobs": [written(), written(after=["#0"])]}
    made = api.post("/v1/jobs:batch", good, headers={"Idempotency-Key": "k"})
    assert made.status_code == 201
    assert [job["state"] for job in made.json()["jobs"]] == ["queued", "blocked"]
    again = api.post("/v1/jobs:batch", good, headers={"Idempotency-Key": "k"})
    assert again.headers["Idempotency-Replayed"] == "true"
    bad = api.post("/v1/jobs:batch", {"jobs": [written(), written(after=["#1"])]})
    assert [error["pointer"] for error in bad.json()["errors"]] == ["/jobs/1/after/0/job"]
    assert len(api.get("/v1/jobs").json()["jobs"]) == 2


def test_a_plan_has_the_complete_spec_and_its_size(any_api: Api) -> None:
    planned = any_api.post("/v1/jobs:plan", written(depth=20))
    assert planned.status_code == 200, planned.text
    document = planned.json()
    assert document["spec"]["recipe"]["iterations"] == 600
    assert (document["network"], document["parameters"]) == ("resnet-20-A", 269_722)
    assert document["minutes"] is None
    assert document["worker_counts"] == [1]
    assert any_api.get("/v1/jobs").json()["jobs"] == []


def test_a_plan_names_the_numbers_of_workers_of_an_elastic_job(api: Api) -> None:
    elastic = written(resources={"num_workers": {"min": 1, "max": 6}})
    document = api.post("/v1/jobs:plan", elastic).json()
    assert document["worker_counts"] == [1, 2, 4]
    (note,) = document["notes"]
    assert note.startswith("number of workers: 1, 2 or 4, which share batches of 128 equally")


def test_a_plan_of_an_invalid_spec_is_refused_with_its_pointers(api: Api) -> None:
    refused = api.post("/v1/jobs:plan", written(depth=9))
    assert [error["pointer"] for error in refused.json()["errors"]] == ["/depth"]


def test_a_plan_does_not_wait_for_a_transaction_that_writes(any_api: Api) -> None:
    needed = any_api.core.submit()
    with any_api.core.database.transaction() as session:
        lifecycle.lock_job(session, needed)
        assert any_api.post("/v1/jobs:plan", written(after=[needed])).status_code == 200


def test_jobs_are_listed_newest_first(api: Api) -> None:
    ids = [api.core.submit() for _ in range(3)]
    answer = api.get("/v1/jobs")
    assert _ids(answer) == ids[::-1]
    assert answer.json()["next_page_token"] is None
    shown = api.get(f"/v1/jobs/{ids[2]}").json()
    assert answer.json()["jobs"][0] == shown | {"waiting": None}


def _pages(api: Api, **query: Any) -> Iterator[list[str]]:
    token: str | None = None
    while True:
        params = query | ({"page_token": token} if token is not None else {})
        answer = api.get("/v1/jobs", params=params)
        yield _ids(answer)
        token = answer.json()["next_page_token"]
        if token is None:
            return


def test_a_list_has_the_stored_specs_without_validating_them_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = api.post("/v1/jobs", written(depth=20, shortcut="none", tags=["mine"])).json()["spec"]
    assert JobSpec.model_validate(spec).model_dump(mode="json") == spec
    monkeypatch.setattr(JobSpec, "model_validate", None)
    (job,) = api.get("/v1/jobs").json()["jobs"]
    assert job["spec"] == spec
    assert job["network"] == "plain-20"


def test_pages_contain_every_job_once(any_api: Api) -> None:
    ids = [any_api.core.submit() for _ in range(5)]
    assert list(_pages(any_api, limit=2)) == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]


def test_a_full_last_page_has_no_token(api: Api) -> None:
    ids = [api.core.submit() for _ in range(4)]
    assert list(_pages(api, limit=2)) == [[ids[3], ids[2]], [ids[1], ids[0]]]


def test_a_job_created_between_two_pages_does_not_shift_them(api: Api) -> None:
    ids = [api.core.submit() for _ in range(4)]
    pages = _pages(api, limit=2)
    assert next(pages) == [ids[3], ids[2]]
    api.core.submit()
    assert next(pages) == [ids[1], ids[0]]


def test_a_filter_applies_to_every_page(api: Api) -> None:
    ids = []
    for _ in range(3):
        ids.append(api.core.submit(tags=["mine"]))
        api.core.submit()
    assert list(_pages(api, limit=2, tag="mine")) == [[ids[2], ids[1]], [ids[0]]]


@pytest.fixture
def filterable(api: Api) -> dict[str, str]:
    """Ids of jobs that differ in what lists are filtered by."""
    api.core.record_cluster(cpus=64)
    return {
        "running": job_id_of(api.core.run(name="first 100%", tags=["a", "b"])),
        "cancelled": cancelled(api.core, name="second", tags=["a"]),
        "queued": api.core.submit(name="third", dataset="fake"),
    }


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("state=running", ["running"]),
        ("state=queued&state=cancelled", ["queued", "cancelled"]),
        ("state=failed", []),
        ("dataset=fake", ["queued"]),
        ("dataset=folder:none", []),
        ("tag=a", ["cancelled", "running"]),
        ("tag=a&tag=b", ["running"]),
        ("name=ir", ["queued", "running"]),
        ("name=100%25", ["running"]),
        ("name=%25", ["running"]),
        ("name=_", []),
        ("tag=a&state=cancelled&dataset=digits&name=sec", ["cancelled"]),
        ("tag=a&dataset=fake", []),
    ],
)
def test_listed_jobs_match_all_filters(
    api: Api, filterable: dict[str, str], query: str, names: list[str]
) -> None:
    assert _ids(api.get(f"/v1/jobs?{query}")) == [filterable[name] for name in names]


def test_jobs_are_listed_by_the_prefix_of_their_id(api: Api, filterable: dict[str, str]) -> None:
    assert _ids(api.get(f"/v1/jobs?id_prefix={filterable['queued'][:14]}")) == [
        filterable["queued"]
    ]
    assert len(_ids(api.get(f"/v1/jobs?id_prefix={filterable['queued'][:2]}"))) == 3


def test_a_waiting_job_has_a_reason(any_api: Api) -> None:
    any_api.core.record_cluster(cpus=2)
    any_api.core.start_small(cpus=1)
    job_id = any_api.core.submit(resources=workers(2))
    waiting = any_api.get(f"/v1/jobs/{job_id}").json()["waiting"]
    assert (waiting["code"], waiting["position"]) == ("resources", 1)
    assert any_api.get("/v1/queue").json()["jobs"][0]["waiting"] == waiting


def _points(series: str, values: dict[int, float | None]) -> list[dict[str, Any]]:
    return [
        make_point(series, iteration, value).model_dump(mode="json")
        for iteration, value in values.items()
    ]


def _line(message: str, level: str = "info") -> dict[str, Any]:
    return {"at": START.isoformat(), "level": level, "message": message}


ENVIRONMENT = {
    "parameters": 75_290,
    "classes": 10,
    "train_images": 1437,
    "test_images": 360,
    "device": "cpu",
    "num_workers": 1,
    "host": "node-1",
    "pids": [7],
    "versions": {"torch": "2"},
}


def test_a_job_has_no_progress_before_its_first_report(api: Api) -> None:
    job_id = api.core.submit()
    answer = api.get(f"/v1/jobs/{job_id}/progress")
    assert (answer.status_code, answer.json()) == (200, None)


def test_progress_has_the_iteration_and_the_remaining_time(api: Api) -> None:
    claimed = api.core.start(recipe={"name": "quick", "iterations": 600, "batch_size": 100})
    api.report(
        claimed,
        1,
        environment=ENVIRONMENT,
        progress={"iteration": 150, "iterations": 600, "images_per_second": 1500.0},
        metrics=_points("train/loss", {100: 0.7, 150: 0.5}) + _points("test/error", {100: None}),
    )
    path = f"/v1/jobs/{job_id_of(claimed)}"
    progress = api.get(f"{path}/progress").json()
    assert progress == {
        "iteration": 150,
        "iterations": 600,
        "percent": 25.0,
        "images_per_second": 1500.0,
        "eta_seconds": 30.0,
        "metrics": {"train/loss": 0.5, "test/error": None},
    }
    job = api.get(path).json()
    assert job["progress"] == progress
    assert job["parameters"] == 75_290
    assert job["started_at"] == api.core.clock.now.strftime(RFC_3339)


def test_a_job_that_waits_for_its_data_says_so_until_it_computes(api: Api) -> None:
    claimed = api.core.run()
    path = f"/v1/jobs/{job_id_of(claimed)}"
    assert api.get(path).json()["bottleneck"] is None
    for sequence, load in ((2, 0.09), (3, 0.001)):
        parts = _points("step/load_seconds", {10 * sequence: load})
        parts += _points("step/compute_seconds", {10 * sequence: 0.01})
        api.report(claimed, sequence, metrics=parts)
        found = api.get(path).json()["bottleneck"]
        (listed,) = api.get("/v1/jobs").json()["jobs"]
        assert listed["bottleneck"] == found
        if load > 0.01:
            assert found["code"] == "data-loading"
            assert found["message"].startswith("Data loading takes 90 % of each step: ")
        else:
            assert found is None


def test_progress_has_no_diagnostic_series_and_the_metrics_have_them(api: Api) -> None:
    claimed = api.core.run()
    progress = {"iteration": 9, "iterations": 9, "images_per_second": 5.0}
    names = ["train/loss", "step/load_seconds", "machine/cpu_percent"]
    points = [point for name in names for point in _points(name, {9: 1.0})]
    api.report(claimed, 2, progress=progress, metrics=points)
    job_id = job_id_of(claimed)
    assert api.get(f"/v1/jobs/{job_id}/progress").json()["metrics"] == {"train/loss": 1.0}
    assert _series(api, job_id).keys() == set(names)
    bucketed = api.get(f"/v1/metrics?job={job_id}").json()["jobs"][0]["series"]
    assert bucketed.keys() == set(names)


def test_a_finished_job_has_a_reason_and_a_result(api: Api) -> None:
    claimed = api.core.run()
    api.report(claimed, 2, progress={"iteration": 9, "iterations": 9, "images_per_second": 5.0})
    result = {
        "train_error": 0.1,
        "test_error": 2.2,
        "training_seconds": 40.1,
        "step_seconds": 38.5,
        "test_top5_error": 0.0,
        "validation_error": 3.5,
    }
    api.attempt(claimed, "POST", "/finish", json={"reason": "completed", "result": result})
    job = api.get(f"/v1/jobs/{job_id_of(claimed)}").json()
    assert (job["state"], job["reason"], job["result"]) == ("succeeded", "completed", result)
    assert job["progress"]["eta_seconds"] is None
    assert job["finished_at"] == api.core.clock.now.strftime(RFC_3339)


def test_a_retried_job_has_the_reason_and_its_restarts(api: Api) -> None:
    first = api.core.run()
    api.attempt(first, "POST", "/finish", json={"reason": "training-error", "message": "boom"})
    job = api.get(f"/v1/jobs/{job_id_of(first)}").json()
    assert (job["state"], job["reason"], job["message"]) == ("queued", "training-error", "boom")
    assert (job["attempts"], job["restarts"]) == (1, 1)


@pytest.fixture
def measured(api: Api) -> str:
    """The id of a job with 10 points of one series and 2 of another, one of them not finite."""
    claimed = api.core.run()
    losses = _points("train/loss", {iteration: float(iteration) for iteration in range(1, 11)})
    errors = _points("test/error", {5: 20.5, 10: None})
    assert api.report(claimed, 2, metrics=losses + errors).status_code == 200
    return job_id_of(claimed)


def _series(api: Api, job_id: str, query: str = "") -> dict[str, Any]:
    answer = api.get(f"/v1/jobs/{job_id}/metrics?{query}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["series"]
    return found


def test_all_series_are_read_by_iteration(api: Api, measured: str) -> None:
    found = _series(api, measured)
    assert set(found) == {"train/loss", "test/error"}
    assert found["train/loss"]["iterations"] == list(range(1, 11))
    assert found["test/error"] == {
        "iterations": [5, 10],
        "values": [20.5, None],
        "seconds": [5.0, 10.0],
        "times": [START.timestamp() + 5, START.timestamp() + 10],
    }


def test_only_the_named_series_are_read(api: Api, measured: str) -> None:
    assert set(_series(api, measured, "series=test/error&series=nothing")) == {"test/error"}


def test_a_job_without_metrics_has_no_series(api: Api) -> None:
    assert _series(api, api.core.submit()) == {}


def test_metrics_are_read_as_csv(api: Api, measured: str) -> None:
    answer = api.get(f"/v1/jobs/{measured}/metrics?format=csv&series=test/error")
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert list(csv.reader(io.StringIO(answer.text))) == [
        ["series", "iteration", "value", "seconds", "time"],
        ["test/error", "5", "20.5", "5.0", str(START.timestamp() + 5)],
        ["test/error", "10", "", "10.0", str(START.timestamp() + 10)],
    ]


@pytest.mark.parametrize("query", ["format=xml", "series=%00"])
def test_an_invalid_query_of_metrics_is_refused(api: Api, measured: str, query: str) -> None:
    answer = api.get(f"/v1/jobs/{measured}/metrics?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")


def test_log_lines_of_all_attempts_are_read_oldest_first(api: Api) -> None:
    first = api.core.run()
    api.report(first, 2, logs=[_line("one"), _line("two", "warning")])
    api.core.end(first, Reason.WORKER_DIED)
    api.report(api.core.retry(), 2, logs=[_line("three")])
    lines = api.get(f"/v1/jobs/{job_id_of(first)}/logs").json()["lines"]
    assert lines[1] == {
        "number": 2,
        "attempt": 1,
        "at": START.strftime(RFC_3339),
        "level": "warning",
        "message": "two",
    }
    assert [(line["number"], line["attempt"], line["message"]) for line in lines] == [
        (1, 1, "one"),
        (2, 1, "two"),
        (3, 2, "three"),
    ]


def test_log_lines_are_read_after_a_number(api: Api) -> None:
    claimed = api.core.run()
    api.report(claimed, 2, logs=[_line(str(number)) for number in range(1, 6)])
    answer = api.get(f"/v1/jobs/{job_id_of(claimed)}/logs?after=2&limit=2")
    assert [line["number"] for line in answer.json()["lines"]] == [3, 4]


def test_attempts_are_listed_with_their_reasons(api: Api) -> None:
    first = api.core.run()
    api.core.end(first, Reason.WORKER_DIED)
    api.core.release(first)
    second = api.core.retry()
    path = f"/v1/jobs/{job_id_of(first)}/attempts"
    first_view, second_view = api.get(path).json()["attempts"]
    assert (first_view["id"], first_view["number"], first_view["state"]) == (
        first.attempt_id,
        1,
        "ended",
    )
    assert (first_view["reason"], first_view["blame"]) == ("worker-died", "infrastructure")
    assert first_view["message"] == "ended by a test"
    assert first_view["released_at"] is not None
    assert (second_view["id"], second_view["number"], second_view["state"]) == (
        second.attempt_id,
        2,
        "running",
    )
    assert (second_view["reason"], second_view["blame"], second_view["ended_at"]) == (
        None,
        None,
        None,
    )


def test_an_attempt_has_the_resources_of_its_workers(api: Api) -> None:
    claimed = api.core.start(resources=workers(2, cpus_per_worker=3))
    job_id = job_id_of(claimed)
    api.core.report(claimed.attempt_id, 1, metrics=[make_point("train/loss", 40, 0.5)])
    (attempt,) = api.get(f"/v1/jobs/{job_id}/attempts").json()["attempts"]
    assert (attempt["num_workers"], attempt["cpus_per_worker"]) == (2, 3)
    assert (attempt["first_iteration"], attempt["last_iteration"]) == (0, 40)
    assert api.get(f"/v1/jobs/{job_id}").json()["num_workers"] == 2


def test_a_listed_attempt_has_no_secret(api: Api) -> None:
    claimed = api.core.run()
    answer = api.get(f"/v1/jobs/{job_id_of(claimed)}/attempts")
    assert claimed.secret not in answer.text
    assert "token" not in answer.text
    assert "fence" not in answer.text


def _events(api: Api, job_id: str, query: str = "") -> list[dict[str, Any]]:
    answer = api.get(f"/v1/jobs/{job_id}/events?{query}")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["events"]
    return found


def test_events_are_listed_in_order(api: Api) -> None:
    claimed = api.core.run()
    api.checkpoint(claimed, 2, note(4, test_error=2.5))
    api.post(f"/v1/jobs/{job_id_of(claimed)}/cancel")
    api.attempt(claimed, "POST", "/finish", json={"reason": "cancelled"})
    found = _events(api, job_id_of(claimed))
    assert [event["number"] for event in found] == list(range(1, len(found) + 1))
    listed = [(event["kind"], event["data"].get("to")) for event in found]
    assert listed == [
        ("submitted", None),
        ("attempt", None),
        ("state", "starting"),
        ("state", "running"),
        ("checkpoint", None),
        ("stop-requested", None),
        ("attempt", None),
        ("state", "cancelled"),
    ]
    assert found[3]["data"].items() >= {"from": "starting", "to": "running"}.items()
    assert found[4]["data"].items() >= {"iteration": 4, "test_error": 2.5}.items()


def test_events_are_read_after_a_number(api: Api) -> None:
    job_id = job_id_of(api.core.run())
    assert [event["number"] for event in _events(api, job_id, "after=1&limit=2")] == [2, 3]
    assert _events(api, job_id, "after=4") == []
