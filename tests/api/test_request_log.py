"""The log lines of requests: which have one, and by which ids they are found."""

import io
import json
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest

from service import log
from service.states import Reason
from tests.support.api import Api
from tests.support.core import job_id_of, written
from tests.support.fake_api import eventually

Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """What was logged as JSON."""
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    log.configure("json")
    return lambda: [json.loads(line) for line in stderr.getvalue().splitlines()]


def _find(lines: Lines, request_id: str) -> dict[str, Any]:
    """The line of a request, which follows its response."""

    def find() -> list[dict[str, Any]]:
        return [
            line
            for line in lines()
            if (line["event"], line.get("request_id")) == ("request", request_id)
        ]

    eventually(find)
    (found,) = find()
    return found


def test_a_request_that_creates_a_job_is_found_by_the_jobs_id(api: Api, lines: Lines) -> None:
    answer = api.post("/v1/jobs", written())
    line = _find(lines, answer.headers["X-Request-Id"])
    assert line["job_id"] == answer.json()["id"]
    assert (line["method"], line["route"], line["status"]) == ("POST", "/v1/jobs", 201)
    assert (line["level"], line["user"]) == ("info", "admin")
    assert line["seconds"] > 0


def test_a_clone_is_found_by_both_jobs(api: Api, lines: Lines) -> None:
    job_id = api.core.submit()
    answer = api.post(f"/v1/jobs/{job_id}/clone", {})
    line = _find(lines, answer.headers["X-Request-Id"])
    assert (line["job_id"], line["created_job_id"]) == (job_id, answer.json()["id"])


def test_a_request_of_an_attempt_is_found_by_the_ids_of_attempt_and_job(
    api: Api, lines: Lines
) -> None:
    taken = api.core.run()
    answer = api.attempt(taken, "POST", "/finish", json={"reason": Reason.CANCELLED})
    line = _find(lines, answer.headers["X-Request-Id"])
    assert (line["job_id"], line["attempt_id"]) == (job_id_of(taken), taken.attempt_id)
    assert "user" not in line


def test_reads_and_reports_have_no_line(api: Api, lines: Lines) -> None:
    taken = api.core.run()
    api.get("/v1/jobs")
    api.get("/v1/jobs/0")
    api.report(taken, 2)
    api.post("/v1/jobs:plan", written())
    answer = api.post("/v1/jobs", written())
    _find(lines, answer.headers["X-Request-Id"])
    assert [line["route"] for line in lines()] == ["/v1/jobs"]


def test_a_refused_change_has_a_line(api: Api, lines: Lines) -> None:
    answer = api.post("/v1/jobs", written(), token="x" * 43)
    assert _find(lines, answer.headers["X-Request-Id"])["status"] == 401


def test_all_lines_of_a_request_that_fails_have_its_id(
    api: Api, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("service.jobs.records.find_job", fail)
    # The server closes the connection after such an error; another test would use it again.
    answer = api.get("/v1/jobs/0", headers={"Connection": "close"})
    line = _find(lines, answer.headers["X-Request-Id"])
    assert (line["status"], line["job_id"]) == (500, "0")
    failed = next(line for line in lines() if line["event"] == "request failed")
    assert failed["request_id"] == answer.json()["request_id"] == line["request_id"]
    assert failed["exception"][0]["exc_type"] == "RuntimeError"


def test_what_the_server_itself_logs_is_a_line_of_the_same_format(api: Api, lines: Lines) -> None:
    host, _, port = api.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"this is no HTTP\r\n\r\n")
        connection.recv(1)
    (line,) = lines()
    assert (line["logger"], line["level"]) == ("uvicorn.error", "warning")
    assert line["event"] == "Invalid HTTP request received."
