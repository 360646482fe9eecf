"""Logs: events with fields; a traceback has no local variables."""

import io
import json
import sys
import threading

import pytest
import structlog

from service import log

SECRET = "the-token-of-a-caller"


def _fail(authorization: str) -> None:
    headers = {"authorization": authorization}
    raise RuntimeError(f"unexpected number of headers: {len(headers)}")


def _log_failure() -> None:
    try:
        _fail(SECRET)
    except RuntimeError:
        structlog.get_logger().exception("request failed", path="/v1/jobs")


def test_each_line_has_the_ids_of_the_process_and_of_what_its_thread_works_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    log.configure("json", runner_id="runner-1")
    logger = structlog.get_logger()
    with log.about_attempt("0123456789abcdef-a2"):
        logger.info("inside")
    thread = threading.Thread(target=logger.info, args=("in a thread",))
    thread.start()
    thread.join()
    log.configure("json")
    logger.info("after")
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    for line in lines:
        del line["timestamp"], line["level"]
    assert lines == [
        {
            "event": "inside",
            "runner_id": "runner-1",
            "job_id": "0123456789abcdef",
            "attempt_id": "0123456789abcdef-a2",
        },
        {"event": "in a thread", "runner_id": "runner-1"},
        {"event": "after"},
    ]


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_logged_exception_has_its_lines_and_no_local_variables(
    log_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    log.configure(log_format)
    _log_failure()
    logged = written.getvalue()
    assert SECRET not in logged
    for expected in ("request failed", "/v1/jobs", "RuntimeError", "_fail", "number of headers: 1"):
        assert expected in logged
    if log_format == "json":
        (event,) = map(json.loads, logged.splitlines())
        assert event["exception"][0]["exc_type"] == "RuntimeError"
