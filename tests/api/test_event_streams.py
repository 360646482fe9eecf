"""Streams of events and progress."""

from typing import Any

import httpx
import pytest
from sqlalchemy import delete

from api import event_streams
from api.dependencies import Services
from service.jobs import retention
from service.storage.tables import JobEventRow
from service.storage.visibility import Visibility
from tests.support.api import TOKEN, Api, read_events
from tests.support.core import cancelled, job_id_of
from tests.support.searching import Searching

STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def searching(api: Api) -> Searching:
    return Searching(api.core)


def _events(api: Api, job_id: str, query: str = "") -> list[dict[str, Any]]:
    answer = api.get(f"/v1/jobs/{job_id}/events?{query}")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["events"]
    return found


def test_a_stream_has_the_events_of_the_list_and_ends_with_the_job(api: Api) -> None:
    claimed = api.core.run()
    api.core.finish(claimed.attempt_id)
    with api.stream(job_id_of(claimed)) as stream:
        messages = list(stream)
    assert [message["data"] for message in messages] == _events(api, job_id_of(claimed))
    for message in messages:
        assert (message["id"], message["event"]) == (
            str(message["data"]["number"]),
            message["data"]["kind"],
        )
    assert messages[-1]["data"]["data"]["to"] == "succeeded"


def test_a_stream_has_the_events_that_happen_while_it_is_open(any_api: Api) -> None:
    job_id = any_api.core.submit()
    with any_api.stream(job_id) as stream:
        assert next(stream)["event"] == "submitted"
        any_api.core.cancel(job_id)
        assert [message["event"] for message in stream] == ["state"]


def test_a_report_of_another_job_wakes_no_stream(
    any_api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = any_api.core.run()
    followed = any_api.core.submit()
    reads: list[int] = []
    read = event_streams._read_job

    def count(services: Services, seen: Visibility, job_id: str, after: int) -> object:
        reads.append(after)
        return read(services, seen, job_id, after)

    monkeypatch.setattr(event_streams, "_read_job", count)
    with any_api.stream(followed) as stream:
        assert next(stream)["event"] == "submitted"
        for sequence in range(2, 12):
            progress = {"iteration": sequence, "iterations": 20, "images_per_second": 1.0}
            assert any_api.report(other, sequence, progress=progress).is_success
        any_api.core.cancel(followed)
        assert [message["event"] for message in stream] == ["state"]
    # At first, after the cancel, and on PostgreSQL once when the listener has connected.
    assert len(reads) <= 3


def test_the_stream_of_a_deleted_job_ends(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    # One event at a time: the job is deleted before the second.
    monkeypatch.setattr("api.event_streams.BATCH_SIZE", 1)
    job_id = cancelled(api.core)
    read = event_streams._read_job

    def delete_after_first(services: Services, seen: Visibility, job_id: str, after: int) -> object:
        if after:
            with services.database.transaction() as session:
                retention.delete_job(session, job_id)
        return read(services, seen, job_id, after)

    monkeypatch.setattr(event_streams, "_read_job", delete_after_first)
    with api.stream(job_id) as stream:
        assert [message["event"] for message in stream] == ["submitted"]


def test_a_stream_that_is_reopened_continues_after_the_last_event(api: Api) -> None:
    claimed = api.core.run()
    with api.stream(job_id_of(claimed)) as stream:
        last = [next(stream) for _ in range(2)][-1]
    api.core.finish(claimed.attempt_id)
    with api.stream(job_id_of(claimed), Last_Event_ID=last["id"]) as stream:
        rest = [message["data"]["number"] for message in stream]
    assert rest == [event["number"] for event in _events(api, job_id_of(claimed), "after=2")]


def test_last_event_id_takes_precedence_over_after(api: Api) -> None:
    """A browser reconnects to the same URL, with the last id that it received."""
    job_id = cancelled(api.core)
    headers = {
        "Authorization": f"Bearer {TOKEN}",
        "Accept": "text/event-stream",
        "Last-Event-ID": "1",
    }
    answer = api.http.get(f"/v1/jobs/{job_id}/events?after=0", headers=headers)
    assert "id: 2" in answer.text
    assert "id: 1" not in answer.text


def _open(api: Api, subject: str, *, after: int) -> httpx.Response:
    """As an EventSource that reconnects; the complete response."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
    return api.get(f"/v1/{subject}/events", headers=headers)


def _assert_reconnects_end(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["Cache-Control"] == "no-cache, no-transform", "204 would be cached"


def test_no_content_ends_the_reconnects_after_the_final_event_of_a_job(api: Api) -> None:
    job_id = cancelled(api.core)
    last = _events(api, job_id)[-1]["number"]
    assert _open(api, f"jobs/{job_id}", after=last - 1).status_code == 200
    _assert_reconnects_end(_open(api, f"jobs/{job_id}", after=last))
    _assert_reconnects_end(_open(api, f"jobs/{job_id}", after=last + 1))
    _assert_reconnects_end(api.get(f"/v1/jobs/{job_id}/events?after={last}", headers=STREAM))


def test_no_content_ends_the_reconnects_where_the_events_have_expired(api: Api) -> None:
    job_id = cancelled(api.core)
    with api.core.database.transaction() as session:
        session.execute(delete(JobEventRow))
    _assert_reconnects_end(_open(api, f"jobs/{job_id}", after=0))


def test_no_content_ends_the_reconnects_after_the_final_event_of_a_search(
    api: Api, searching: Searching
) -> None:
    search_id = _finished_search(searching)
    assert "id: 5" in _open(api, f"searches/{search_id}", after=4).text
    _assert_reconnects_end(_open(api, f"searches/{search_id}", after=5))


@pytest.mark.parametrize("of", ["jobs", "searches"])
def test_no_proxy_may_store_or_compress_a_stream(api: Api, searching: Searching, of: str) -> None:
    subject = searching.submit() if of == "searches" else api.core.submit()
    headers = {"Authorization": f"Bearer {TOKEN}"} | STREAM
    with api.http.stream("GET", f"/v1/{of}/{subject}/events", headers=headers) as response:
        assert response.headers["Cache-Control"] == "no-cache, no-transform"


def test_a_stream_has_the_progress_of_the_job(api: Api) -> None:
    claimed = api.core.run()
    job_id = job_id_of(claimed)
    with api.stream(job_id, Last_Event_ID="4") as stream:
        api.report(claimed, 2, progress={"iteration": 3, "iterations": 9, "images_per_second": 8.0})
        progress = next(stream)
        assert progress["event"] == "progress"
        assert "id" not in progress, "a stream cannot be resumed from it"
        assert progress["data"] == api.get(f"/v1/jobs/{job_id}").json()["progress"]
        api.core.finish(claimed.attempt_id)
        rest = [message["event"] for message in stream]
    assert rest[-1] == "state", "the final event comes last"


def test_a_stream_of_several_batches_is_complete(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.event_streams.BATCH_SIZE", 2)
    claimed = api.core.run()
    api.core.finish(claimed.attempt_id)
    with api.stream(job_id_of(claimed)) as stream:
        numbers = [message["data"]["number"] for message in stream]
    assert numbers == list(range(1, 7))


def test_an_idle_stream_sends_comments(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.event_streams.KEEPALIVE_SECONDS", 0.01)
    job_id = api.core.submit()
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"}
    with api.http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as response:
        assert next(line for line in response.iter_lines() if line.startswith(":"))


def test_the_stream_of_an_unknown_job_is_not_found(api: Api) -> None:
    headers = {"Accept": "text/event-stream"}
    answer = api.get(f"/v1/jobs/{'0' * 16}/events", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


def test_an_invalid_last_event_id_is_refused(api: Api) -> None:
    job_id = api.core.submit()
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "x"}
    answer = api.get(f"/v1/jobs/{job_id}/events", headers=headers)
    assert answer.status_code == 422


def _finished_search(searching: Searching) -> str:
    """A search whose only trial has succeeded."""
    search_id = searching.run(budget={"trials": 1})
    searching.assign_trial(search_id, "a")
    searching.train(5.0)
    searching.finish_driver(search_id)
    return search_id


def test_the_stream_of_a_search_has_its_events_and_its_view(api: Api, searching: Searching) -> None:
    search_id = _finished_search(searching)
    with api.stream(search_id, of="searches") as stream:
        messages = list(stream)
    kinds = [message["event"] for message in messages]
    assert kinds[0] == "progress"
    assert kinds[1:] == ["submitted", "state", "driver", "trial", "state"]
    assert messages[0]["data"]["best"][0]["values"] == {"test/error": 5.0}
    read = api.get(f"/v1/searches/{search_id}/events?after=4").json()["events"]
    assert [event["number"] for event in read] == [5]


def test_a_stream_ends_when_its_token_is_revoked(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.event_streams.KEEPALIVE_SECONDS", 0.05)
    job_id = api.core.submit(user="bob")
    headers = {"Authorization": f"Bearer {api.add_person('bob')}", "Accept": "text/event-stream"}
    with api.http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as response:
        messages = read_events(response.iter_lines())
        next(messages)
        assert api.call("DELETE", "/v1/people/bob").status_code == 204
        assert [message["event"] for message in messages if message["event"] != "progress"] == []
