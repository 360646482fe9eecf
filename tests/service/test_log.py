"""Logs: events with fields; a traceback has no local variables."""

import io
import json
import logging
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


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_what_a_library_logs_has_the_same_format_and_ids(
    log_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    log.configure(log_format)
    log.configure(log_format, runner_id="runner-1")
    with structlog.contextvars.bound_contextvars(request_id="request-1"):
        logging.getLogger("asyncio").warning("Executing %s took %.1f seconds", "a task", 0.25)
    try:
        _fail(SECRET)
    except RuntimeError:
        logging.getLogger("sqlalchemy.pool").exception("connection lost")
    logging.getLogger("uvicorn.error").info("Shutting down")
    logging.getLogger("httpx").info("HTTP Request: GET /v1/jobs")
    logging.getLogger("alembic").info("Context impl SQLiteImpl.")
    logged = written.getvalue()
    assert SECRET not in logged
    assert "number of headers: 1" in logged
    if log_format == "console":
        assert logged.count("runner_id=runner-1") == 3
        assert "request_id=request-1" in logged.splitlines()[0]
        return
    slow, lost, stopping = map(json.loads, logged.splitlines())
    del slow["timestamp"]
    assert slow == {
        "event": "Executing a task took 0.2 seconds",
        "level": "warning",
        "logger": "asyncio",
        "request_id": "request-1",
        "runner_id": "runner-1",
    }
    assert lost["exception"][0]["exc_type"] == "RuntimeError"
    assert (stopping["logger"], stopping["event"]) == ("uvicorn.error", "Shutting down")
