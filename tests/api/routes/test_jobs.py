"""Jobs over HTTP: submit, find, follow, cancel."""

import csv
import io
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.states import Reason
from tests.support.api import TOKEN, Api
from tests.support.core import START, job_id_of, note, workers, written

RFC_3339 = "%Y-%m-%dT%H:%M:%SZ"


def _ids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["jobs"]]


def _points(series: str, values: dict[int, float | None]) -> list[dict[str, Any]]:
    return [
        {"series": series, "iteration": iteration, "value": value}
        for iteration, value in values.items()
    ]


def _line(message: str, level: str = "info") -> dict[str, Any]:
    return {"at": START.isoformat(), "level": level, "message": message}


FACTS = {
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


def test_depth_shortcut_and_data_set_are_enough_for_a_job(api: Api) -> None:
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


def test_a_job_is_answered_with_its_whole_spec(api: Api) -> None:
    spec = api.post("/v1/jobs", written(seed=7, tags=["mine"])).json()["spec"]
    assert {"depth": 8, "shortcut": "A", "dataset": "digits", "seed": 7}.items() <= spec.items()
    assert spec["family"] == "cifar"
    assert spec["recipe"]["name"] == "quick"
    assert spec["resources"] == {"num_workers": 1, "cpus_per_worker": 1, "gpus_per_worker": None}
    again = api.post("/v1/jobs", spec).json()["spec"]
    assert again == spec


def test_a_submitted_job_is_found_where_its_location_says(api: Api) -> None:
    answer = api.post("/v1/jobs", written())
    found = api.get(answer.headers["Location"]).json()
    assert found | {"waiting": None} == answer.json()


def test_a_repeated_key_answers_the_first_job(api: Api) -> None:
    key = {"Idempotency-Key": "once"}
    first = api.post("/v1/jobs", written(), headers=key)
    again = api.post("/v1/jobs", written(), headers=key)
    assert again.status_code == 201
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    assert again.json() == first.json()
    assert len(_ids(api.get("/v1/jobs"))) == 1


def test_a_replay_answers_the_job_as_it_is_now(api: Api) -> None:
    key = {"Idempotency-Key": "once"}
    job_id = api.post("/v1/jobs", written(), headers=key).json()["id"]
    api.core.cancel(job_id)
    assert api.post("/v1/jobs", written(), headers=key).json()["state"] == "cancelled"


def test_a_key_counts_for_the_spec_and_not_for_how_it_is_written(api: Api) -> None:
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


def test_what_was_refused_uses_no_key_up(api: Api) -> None:
    key = {"Idempotency-Key": "once"}
    assert api.post("/v1/jobs", written(depth=9), headers=key).status_code == 422
    answer = api.post("/v1/jobs", written(), headers=key)
    assert answer.status_code == 201
    assert "Idempotency-Replayed" not in answer.headers


@pytest.mark.parametrize("key", ["", "k" * 201, b"caf\xe9"])
def test_a_key_that_cannot_be_kept_is_refused(api: Api, key: str | bytes) -> None:
    answer = api.post("/v1/jobs", written(), headers={b"Idempotency-Key": key})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/idempotency-key"


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


def test_pages_hold_every_job_once(any_api: Api) -> None:
    ids = [any_api.core.submit() for _ in range(5)]
    assert list(_pages(any_api, limit=2)) == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]


def test_a_full_last_page_has_none_behind_it(api: Api) -> None:
    ids = [api.core.submit() for _ in range(4)]
    assert list(_pages(api, limit=2)) == [[ids[3], ids[2]], [ids[1], ids[0]]]


def test_jobs_that_come_while_pages_are_turned_shift_nothing(api: Api) -> None:
    ids = [api.core.submit() for _ in range(4)]
    pages = _pages(api, limit=2)
    assert next(pages) == [ids[3], ids[2]]
    api.core.submit()
    assert next(pages) == [ids[1], ids[0]]


def test_the_filter_holds_on_every_page(api: Api) -> None:
    ids = []
    for _ in range(3):
        ids.append(api.core.submit(tags=["mine"]))
        api.core.submit()
    assert list(_pages(api, limit=2, tag="mine")) == [[ids[2], ids[1]], [ids[0]]]


@pytest.fixture
def shelf(api: Api) -> dict[str, str]:
    """Ids of jobs that differ in what can be asked for."""
    api.core.offer(cpus=64)
    return {
        "running": job_id_of(api.core.run(name="first 100%", tags=["a", "b"])),
        "cancelled": _cancelled(api, name="second", tags=["a"]),
        "queued": api.core.submit(name="third", dataset="fake"),
    }


def _cancelled(api: Api, **fields: Any) -> str:
    job_id = api.core.submit(**fields)
    api.core.cancel(job_id)
    return job_id


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
def test_jobs_that_match_all_that_is_asked_for_are_found(
    api: Api, shelf: dict[str, str], query: str, names: list[str]
) -> None:
    assert _ids(api.get(f"/v1/jobs?{query}")) == [shelf[name] for name in names]


def test_a_job_is_found_by_the_beginning_of_its_id(api: Api, shelf: dict[str, str]) -> None:
    assert _ids(api.get(f"/v1/jobs?id_prefix={shelf['queued'][:14]}")) == [shelf["queued"]]
    assert len(_ids(api.get(f"/v1/jobs?id_prefix={shelf['queued'][:2]}"))) == 3


def test_a_waiting_job_is_cancelled_at_once(api: Api) -> None:
    job_id = api.core.submit()
    answer = api.post(f"/v1/jobs/{job_id}/cancel")
    assert answer.status_code == 202
    job = answer.json()
    assert (job["state"], job["reason"]) == ("cancelled", "cancelled")
    assert job["finished_at"] == api.core.clock.now.strftime(RFC_3339)
    assert api.get(f"/v1/jobs/{job_id}").json() == job


def test_a_running_job_is_asked_to_stop(api: Api) -> None:
    claimed = api.core.run()
    answer = api.post(f"/v1/jobs/{job_id_of(claimed)}/cancel")
    assert answer.status_code == 202
    assert (answer.json()["state"], answer.json()["stop_requested"]) == ("running", "cancel")
    assert api.report(claimed, 2).json() == {"last_sequence": 2, "stop": "cancel"}


def test_a_repeated_cancel_changes_nothing(api: Api) -> None:
    job_id = api.core.submit()
    first = api.post(f"/v1/jobs/{job_id}/cancel").json()
    api.core.clock.advance(5.0)
    answer = api.post(f"/v1/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()) == (202, first)


def test_a_job_that_has_ended_cannot_be_cancelled(api: Api) -> None:
    claimed = api.core.run()
    api.core.finish(claimed.attempt_id)
    answer = api.post(f"/v1/jobs/{job_id_of(claimed)}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "illegal-move")


def test_a_job_that_nobody_has_cannot_be_cancelled(api: Api) -> None:
    assert api.post(f"/v1/jobs/{'0' * 16}/cancel").status_code == 404


def test_a_job_has_no_progress_before_its_processes_are_up(api: Api) -> None:
    job_id = api.core.submit()
    answer = api.get(f"/v1/jobs/{job_id}/progress")
    assert (answer.status_code, answer.json()) == (200, None)


def test_progress_tells_how_far_a_job_is_and_how_long_it_takes(api: Api) -> None:
    claimed = api.core.start(recipe={"name": "quick", "iterations": 600, "batch_size": 100})
    api.report(
        claimed,
        1,
        facts=FACTS,
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


def test_the_end_of_a_job_is_told_with_its_reason_and_its_result(api: Api) -> None:
    claimed = api.core.run()
    api.report(claimed, 2, progress={"iteration": 9, "iterations": 9, "images_per_second": 5.0})
    result = {"train_error": 0.1, "test_error": 2.2, "training_seconds": 40.1}
    api.attempt(claimed, "POST", "/finish", json={"reason": "completed", "result": result})
    job = api.get(f"/v1/jobs/{job_id_of(claimed)}").json()
    assert (job["state"], job["reason"], job["result"]) == ("succeeded", "completed", result)
    assert job["progress"]["eta_seconds"] is None
    assert job["finished_at"] == api.core.clock.now.strftime(RFC_3339)


def test_a_job_that_is_tried_again_says_why_and_how_often(api: Api) -> None:
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
    assert found["test/error"] == {"iterations": [5, 10], "values": [20.5, None]}


def test_the_series_that_are_named_are_read_and_no_other(api: Api, measured: str) -> None:
    assert set(_series(api, measured, "series=test/error&series=nothing")) == {"test/error"}


def test_each_series_is_thinned_by_itself(api: Api, measured: str) -> None:
    found = _series(api, measured, "points=4")
    assert found["train/loss"]["iterations"] == [1, 4, 7, 10]
    assert found["train/loss"]["values"] == [1.0, 4.0, 7.0, 10.0]
    assert found["test/error"]["iterations"] == [5, 10]


def test_a_job_without_metrics_has_no_series(api: Api) -> None:
    assert _series(api, api.core.submit()) == {}


def test_metrics_are_read_as_csv(api: Api, measured: str) -> None:
    answer = api.get(f"/v1/jobs/{measured}/metrics?format=csv&points=2")
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert list(csv.reader(io.StringIO(answer.text))) == [
        ["series", "iteration", "value"],
        ["test/error", "5", "20.5"],
        ["test/error", "10", ""],
        ["train/loss", "1", "1.0"],
        ["train/loss", "10", "10.0"],
    ]


@pytest.mark.parametrize("query", ["points=0", "points=x", "format=xml", "series=%00"])
def test_metrics_that_cannot_be_asked_for_are_refused(api: Api, measured: str, query: str) -> None:
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


def test_log_lines_are_read_on_from_a_number(api: Api) -> None:
    claimed = api.core.run()
    api.report(claimed, 2, logs=[_line(str(number)) for number in range(1, 6)])
    answer = api.get(f"/v1/jobs/{job_id_of(claimed)}/logs?after=2&limit=2")
    assert [line["number"] for line in answer.json()["lines"]] == [3, 4]


def test_attempts_are_told_with_why_each_ended(api: Api) -> None:
    first = api.core.run()
    api.core.end(first, Reason.WORKER_DIED)
    api.core.release(first)
    second = api.core.retry()
    path = f"/v1/jobs/{job_id_of(first)}/attempts"
    one, two = api.get(path).json()["attempts"]
    assert (one["id"], one["number"], one["state"]) == (first.attempt_id, 1, "ended")
    assert (one["reason"], one["fault"]) == ("worker-died", "infrastructure")
    assert one["message"] == "ended by a test"
    assert one["released_at"] is not None
    assert (two["id"], two["number"], two["state"]) == (second.attempt_id, 2, "running")
    assert (two["reason"], two["fault"], two["ended_at"]) == (None, None, None)


def test_no_secret_of_an_attempt_is_told(api: Api) -> None:
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


def test_events_tell_what_happened_in_its_order(api: Api) -> None:
    claimed = api.core.run()
    api.checkpoint(claimed, 2, note(4, test_error=2.5))
    api.post(f"/v1/jobs/{job_id_of(claimed)}/cancel")
    api.attempt(claimed, "POST", "/finish", json={"reason": "cancelled"})
    found = _events(api, job_id_of(claimed))
    assert [event["number"] for event in found] == list(range(1, len(found) + 1))
    told = [(event["kind"], event["data"].get("to")) for event in found]
    assert told == [
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


def test_events_are_read_on_from_a_number(api: Api) -> None:
    job_id = job_id_of(api.core.run())
    assert [event["number"] for event in _events(api, job_id, "after=1&limit=2")] == [2, 3]
    assert _events(api, job_id, "after=4") == []


def test_a_stream_tells_the_same_events_as_the_list_and_ends_with_the_job(api: Api) -> None:
    claimed = api.core.run()
    api.core.finish(claimed.attempt_id)
    with api.stream(job_id_of(claimed)) as stream:
        told = list(stream)
    assert [each["data"] for each in told] == _events(api, job_id_of(claimed))
    for each in told:
        assert (each["id"], each["event"]) == (str(each["data"]["number"]), each["data"]["kind"])
    assert told[-1]["data"]["data"]["to"] == "succeeded"


def test_a_stream_tells_what_happens_while_it_is_open(any_api: Api) -> None:
    job_id = any_api.core.submit()
    with any_api.stream(job_id) as stream:
        assert next(stream)["event"] == "submitted"
        any_api.core.cancel(job_id)
        assert [each["event"] for each in stream] == ["state"]


def test_a_reader_that_comes_again_misses_nothing_and_hears_nothing_twice(api: Api) -> None:
    claimed = api.core.run()
    with api.stream(job_id_of(claimed)) as stream:
        last = [next(stream) for _ in range(2)][-1]
    api.core.finish(claimed.attempt_id)
    with api.stream(job_id_of(claimed), Last_Event_ID=last["id"]) as stream:
        rest = [each["data"]["number"] for each in stream]
    assert rest == [event["number"] for event in _events(api, job_id_of(claimed), "after=2")]


def test_the_readers_place_goes_before_the_one_in_the_query(api: Api) -> None:
    """A browser opens the same URL again, with the place that it had reached."""
    job_id = _cancelled(api)
    headers = {
        "Authorization": f"Bearer {TOKEN}",
        "Accept": "text/event-stream",
        "Last-Event-ID": "1",
    }
    answer = api.http.get(f"/v1/jobs/{job_id}/events?after=0", headers=headers)
    assert "id: 2" in answer.text
    assert "id: 1" not in answer.text


def test_a_stream_behind_the_final_event_ends_at_once(api: Api) -> None:
    job_id = _cancelled(api)
    last = _events(api, job_id)[-1]["number"]
    with api.stream(job_id, Last_Event_ID=str(last)) as stream:
        assert list(stream) == []


def test_a_stream_carries_the_progress_as_it_stands_in_the_job(api: Api) -> None:
    claimed = api.core.run()
    job_id = job_id_of(claimed)
    with api.stream(job_id, Last_Event_ID="4") as stream:
        api.report(claimed, 2, progress={"iteration": 3, "iterations": 9, "images_per_second": 8.0})
        told = next(stream)
        assert told["event"] == "progress"
        assert "id" not in told, "it is no event that a reader could come back to"
        assert told["data"] == api.get(f"/v1/jobs/{job_id}").json()["progress"]
        api.core.finish(claimed.attempt_id)
        rest = [each["event"] for each in stream]
    assert rest[-1] == "state", "nothing follows the event that makes the job final"


def test_a_stream_of_more_events_than_one_look_holds_is_whole(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.streams._BATCH", 2)
    claimed = api.core.run()
    api.core.finish(claimed.attempt_id)
    with api.stream(job_id_of(claimed)) as stream:
        numbers = [each["data"]["number"] for each in stream]
    assert numbers == list(range(1, 7))


def test_a_quiet_stream_sends_comments(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.streams._KEEPALIVE_SECONDS", 0.01)
    job_id = api.core.submit()
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"}
    with api.http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as response:
        assert next(line for line in response.iter_lines() if line.startswith(":"))


def test_the_stream_of_a_job_that_nobody_has_is_not_found(api: Api) -> None:
    headers = {"Accept": "text/event-stream"}
    answer = api.get(f"/v1/jobs/{'0' * 16}/events", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


def test_what_is_no_place_in_a_stream_is_refused(api: Api) -> None:
    job_id = api.core.submit()
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "x"}
    answer = api.get(f"/v1/jobs/{job_id}/events", headers=headers)
    assert answer.status_code == 422


def test_a_job_of_several_workers_says_what_it_occupies(api: Api) -> None:
    claimed = api.core.start(resources=workers(2, cpus_per_worker=3))
    (attempt,) = api.get(f"/v1/jobs/{job_id_of(claimed)}/attempts").json()["attempts"]
    assert (attempt["num_workers"], attempt["cpus_per_worker"]) == (2, 3)
