"""What a job tells over HTTP: progress, metrics, log lines, attempts, events, streams."""

import csv
import io
from typing import Any

import pytest

from service.states import Reason
from tests.support.api import RFC_3339, TOKEN, Api
from tests.support.core import START, cancelled, job_id_of, note


def _points(series: str, values: dict[int, float | None]) -> list[dict[str, Any]]:
    return [
        {"series": series, "iteration": iteration, "value": value}
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


def test_a_job_has_no_progress_before_its_processes_are_up(api: Api) -> None:
    job_id = api.core.submit()
    answer = api.get(f"/v1/jobs/{job_id}/progress")
    assert (answer.status_code, answer.json()) == (200, None)


def test_progress_tells_how_far_a_job_is_and_how_long_it_takes(api: Api) -> None:
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
    assert (one["reason"], one["blame"]) == ("worker-died", "infrastructure")
    assert one["message"] == "ended by a test"
    assert one["released_at"] is not None
    assert (two["id"], two["number"], two["state"]) == (second.attempt_id, 2, "running")
    assert (two["reason"], two["blame"], two["ended_at"]) == (None, None, None)


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
    job_id = cancelled(api.core)
    headers = {
        "Authorization": f"Bearer {TOKEN}",
        "Accept": "text/event-stream",
        "Last-Event-ID": "1",
    }
    answer = api.http.get(f"/v1/jobs/{job_id}/events?after=0", headers=headers)
    assert "id: 2" in answer.text
    assert "id: 1" not in answer.text


def test_a_stream_behind_the_final_event_ends_at_once(api: Api) -> None:
    job_id = cancelled(api.core)
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
    monkeypatch.setattr("api.event_streams._BATCH", 2)
    claimed = api.core.run()
    api.core.finish(claimed.attempt_id)
    with api.stream(job_id_of(claimed)) as stream:
        numbers = [each["data"]["number"] for each in stream]
    assert numbers == list(range(1, 7))


def test_a_quiet_stream_sends_comments(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.event_streams._KEEPALIVE_SECONDS", 0.01)
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
