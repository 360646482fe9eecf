"""`GET /v1/stream`: one connection for everything that a page shows."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from sqlalchemy import delete
from sqlalchemy.orm import Session

from api import shared_reads
from api.routes import stream
from service.jobs import checkpoints, records
from service.states import Reason
from service.storage.tables import CheckpointRow, JobRow, TokenRow
from tests.support.api import TOKEN, Api, read_events
from tests.support.core import job_id_of, make_point, note
from tests.support.searching import Searching


@pytest.fixture(autouse=True)
def _short_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_reads, "TICK_SECONDS", 0.05)
    # Longer than a request may take: what is not heard of at once fails the test.
    monkeypatch.setattr(stream, "KEEPALIVE_SECONDS", 60.0)


@contextmanager
def _follow(api: Api, *reads: str, token: str = TOKEN) -> Iterator[Iterator[dict[str, Any]]]:
    """The `data` of each message."""
    query, headers = {"read": list(reads)}, {"Authorization": f"Bearer {token}"}
    with api.http.stream("GET", "/v1/stream", params=query, headers=headers) as response:
        assert response.status_code == 200
        yield (event["data"] for event in read_events(response.iter_lines()))


def _loss(*iterations: int) -> list[dict[str, Any]]:
    points = [make_point("train/loss", n, float(n)) for n in iterations]
    return [point.model_dump(mode="json") for point in points]


def test_each_read_is_answered_at_once_as_its_route_answers(api: Api) -> None:
    job_id = api.core.submit()
    paths = [f"/v1/jobs/{job_id}", "/v1/jobs?state=queued", "/v1/cluster", "/v1/queue?limit=5"]
    with _follow(api, *paths) as messages:
        found = [next(messages) for _ in paths]
    assert [message["read"] for message in found] == [0, 1, 2, 3]
    assert [message["status"] for message in found] == [200] * 4
    assert [message["body"] for message in found] == [api.get(path).json() for path in paths]


def test_only_what_has_changed_comes_again(api: Api) -> None:
    job_id = api.core.submit()
    with _follow(api, "/v1/runners", f"/v1/jobs/{job_id}") as messages:
        assert [next(messages)["read"] for _ in range(2)] == [0, 1]
        api.core.cancel(job_id)
        message = next(messages)
    assert (message["read"], message["body"]["state"]) == (1, "cancelled")


def test_a_list_changes_with_each_of_its_jobs(api: Api) -> None:
    with _follow(api, "/v1/jobs") as messages:
        assert next(messages)["body"]["jobs"] == []
        job_id = api.core.submit()
        assert [job["id"] for job in next(messages)["body"]["jobs"]] == [job_id]


def test_a_list_with_fields_comes_again_only_when_one_of_them_changes(api: Api) -> None:
    job_id = api.core.submit()
    with _follow(api, "/v1/jobs?fields=id,state", "/v1/jobs?fields=note") as messages:
        assert next(messages)["body"]["jobs"] == [{"id": job_id, "state": "queued"}]
        assert next(messages)["body"]["jobs"] == [{"note": ""}]
        api.call("PATCH", f"/v1/jobs/{job_id}", json={"note": "new"})
        message = next(messages)
        assert (message["read"], message["body"]["jobs"]) == (1, [{"note": "new"}])
        api.core.cancel(job_id)
        message = next(messages)
    assert (message["read"], message["body"]["jobs"][0]["state"]) == (0, "cancelled")


def test_metrics_continue_at_their_last_bucket(api: Api) -> None:
    claimed = api.core.run()
    api.report(claimed, 2, metrics=_loss(1, 2, 3))
    with _follow(api, f"/v1/metrics?job={job_id_of(claimed)}&x=iteration") as messages:
        first = next(messages)["body"]["jobs"][0]["series"]["train/loss"]
        api.report(claimed, 3, metrics=_loss(4))
        then = next(messages)["body"]["jobs"][0]["series"]["train/loss"]
    assert (first["x"], then["x"]) == ([1, 2, 3], [3, 4])


def test_events_and_log_lines_come_once(api: Api) -> None:
    claimed = api.core.run()
    job_id = job_id_of(claimed)
    with _follow(api, f"/v1/jobs/{job_id}/events") as messages:
        kinds = [event["kind"] for event in next(messages)["body"]["events"]]
        api.core.end(claimed, Reason.COMPLETED)
        later: list[dict[str, Any]] = []
        while "succeeded" not in str(later):
            later += next(messages)["body"]["events"]
    everything = api.get(f"/v1/jobs/{job_id}/events").json()["events"]
    assert [*kinds, *(event["kind"] for event in later)] == [event["kind"] for event in everything]


def test_a_deleted_job_is_the_problem_of_its_route(api: Api) -> None:
    job_id = api.core.submit()
    api.core.cancel(job_id)
    with _follow(api, f"/v1/jobs/{job_id}") as messages:
        next(messages)
        assert api.call("DELETE", f"/v1/jobs/{job_id}").status_code == 204
        message = next(messages)
    assert (message["status"], message["body"]["code"]) == (404, "not-found")


def test_a_list_loses_a_search_that_is_deleted(api: Api) -> None:
    searching = Searching(api.core)
    search_id = searching.submit()
    searching.command("cancel", search_id)
    with _follow(api, "/v1/searches?fields=id") as messages:
        assert next(messages)["body"]["searches"] == [{"id": search_id}]
        assert api.call("DELETE", f"/v1/searches/{search_id}").status_code == 204
        assert next(messages)["body"]["searches"] == []


def test_streams_with_the_same_reads_share_them(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = api.core.submit()
    reads = 0
    find_job = records.find_job

    def count(session: Session, name: str) -> JobRow:
        nonlocal reads
        reads += 1
        return find_job(session, name)

    with ExitStack() as streams:
        followed = [streams.enter_context(_follow(api, f"/v1/jobs/{job_id}")) for _ in range(8)]
        for messages in followed:
            next(messages)
        monkeypatch.setattr(records, "find_job", count)
        api.core.cancel(job_id)
        for messages in followed:
            assert next(messages)["body"]["state"] == "cancelled"
    assert 1 <= reads <= 4


def test_progress_of_a_job_does_not_read_what_changes_with_its_events(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = api.core.run()
    path = f"/v1/jobs/{job_id_of(claimed)}"
    reads: list[str] = []
    list_checkpoints = checkpoints.list_checkpoints

    def record(session: Session, job_id: str) -> list[CheckpointRow]:
        reads.append(job_id)
        return list_checkpoints(session, job_id)

    def report(sequence: int) -> None:
        progress = {"iteration": sequence, "iterations": 20, "images_per_second": 5.0}
        assert api.report(claimed, sequence, progress=progress).is_success

    with _follow(api, path, f"{path}/checkpoints") as messages:
        for _ in range(2):
            next(messages)
        report(2)
        assert next(messages)["body"]["progress"]["iteration"] == 2
        monkeypatch.setattr(checkpoints, "list_checkpoints", record)
        for sequence in (3, 4, 5):
            report(sequence)
            assert next(messages)["body"]["progress"]["iteration"] == sequence
        assert reads == []
        assert api.checkpoint(claimed, 6, note(20)).is_success
        while (message := next(messages))["read"] == 0:
            pass
        assert [found["iteration"] for found in message["body"]["checkpoints"]] == [20]


@pytest.mark.parametrize(
    "url",
    [
        "/v1/session",
        "/v1/stream?read=/v1/jobs",
        "/v1/jobs/abc/checkpoints/abc/weights",
        "/v1/searches/abc/export",
        "https://elsewhere/v1/jobs",
        "//elsewhere/v1/jobs",
        "/v1/jobs/../webhooks",
        "jobs",
        "",
    ],
)
def test_other_requests_cannot_be_followed(api: Api, url: str) -> None:
    answer = api.call("GET", "/v1/stream", params={"read": ["/v1/jobs", url]})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/read/1")


def test_a_wrong_parameter_of_a_read_is_that_of_its_route(api: Api) -> None:
    with _follow(api, "/v1/jobs?where=nonsense") as messages:
        message = next(messages)
    assert (message["status"], message["body"]["errors"][0]["pointer"]) == (422, "/where")


def test_a_stream_needs_a_token(api: Api) -> None:
    assert api.call("GET", "/v1/stream?read=/v1/jobs", token=None).status_code == 401


def test_a_stream_ends_when_its_token_is_removed(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.routes.stream.KEEPALIVE_SECONDS", 0.05)
    token = api.add_person("bob")
    with _follow(api, "/v1/queue", token=token) as messages:
        next(messages)
        with api.core.database.transaction() as session:
            session.execute(delete(TokenRow).where(TokenRow.user == "bob"))
        assert list(messages) == []


def test_a_stream_with_many_changes_ends_too_when_its_token_is_removed(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.routes.stream.KEEPALIVE_SECONDS", 0.3)
    claimed = api.core.run()
    token = api.add_person("bob")
    path = f"/v1/metrics?job={job_id_of(claimed)}"
    with _follow(api, path, token=token) as messages:
        next(messages)
        with api.core.database.transaction() as session:
            session.execute(delete(TokenRow).where(TokenRow.user == "bob"))
        ended = threading.Event()

        def report() -> None:
            sequence = 1
            while not ended.wait(0.02):
                sequence += 1
                api.report(claimed, sequence, metrics=_loss(sequence))

        reporter = threading.Thread(target=report)
        reporter.start()
        try:
            list(messages)
        finally:
            ended.set()
            reporter.join()


def test_an_unexpected_error_of_a_read_does_not_end_the_stream(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = api.core.submit()

    def fail(*_: object) -> None:
        raise RuntimeError("out of order")

    with monkeypatch.context() as broken, _follow(api, f"/v1/jobs/{job_id}") as messages:
        next(messages)
        broken.setattr(records, "find_job", fail)
        api.core.command("hold", job_id)
        assert next(messages)["status"] == 500
        broken.undo()
        api.core.cancel(job_id)
        assert next(messages)["body"]["state"] == "cancelled"
