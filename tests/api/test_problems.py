"""Errors as problem+json, with a pointer to each invalid field."""

import asyncio
import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import structlog
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api import problems
from service import errors
from service.errors import ResnetdError
from service.states import Reason
from tests.support.api import TOKEN, Api
from tests.support.contract import DOCUMENT
from tests.support.core import job_id_of, written
from tests.support.fake_api import eventually


def _problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem; checks the fields that every problem has."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["type"] == "about:blank"
    assert body["title"] == {
        401: "Unauthorized",
        404: "Not Found",
        405: "Method Not Allowed",
        413: "Content Too Large",
        422: "Unprocessable Content",
        500: "Internal Server Error",
    }.get(status, body["title"]), "the reason phrase of RFC 9110"
    assert body["detail"]
    assert body["request_id"] == answer.headers["X-Request-Id"]
    return body


def _pointers(answer: httpx.Response) -> list[str]:
    problem = _problem(answer, 422, "invalid-input")
    return [error["pointer"] for error in problem["errors"]]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"dept": 20}, "/dept"),
        ({"a/b~": 20}, "/a~1b~0"),
        # A key with a lone surrogate has no pointer; the pointer is that of its object.
        ({"half \ud800": 1}, ""),
        ({"recipe": {"half \ud800": 1}}, "/recipe"),
        ({"depth": "20"}, "/depth"),
        ({"depth": 33}, "/depth"),
        ({"depth": 10**400}, "/depth"),
        ({"depth": -(2**63) - 1}, "/depth"),
        ({"dataset": "imagewoof"}, "/dataset"),
        ({"dataset": "digits\x00"}, "/dataset"),
        ({"dataset": "\udfff"}, "/dataset"),
        ({"name": "a\x00b"}, "/name"),
        ({"name": "\ud800"}, "/name"),
        ({"seed": 2**31}, "/seed"),
        ({"seed": 1e300}, "/seed"),
        ({"recipe": {"name": "quick", "iterations": 10**400}}, "/recipe/iterations"),
        ({"recipe": {"name": "quick", "milestones": [1, "x"]}}, "/recipe/milestones/1"),
        ({"recipe": "slow"}, "/recipe"),
        ({"time_limit_minutes": float("nan")}, "/time_limit_minutes"),
        ({"time_limit_minutes": float("inf")}, "/time_limit_minutes"),
        ({"tags": ["ok", 7]}, "/tags/1"),
        ({"resources": {"num_workers": 3}}, "/recipe"),
        ({"resources": {"num_workers": 2000}}, "/resources/num_workers"),
    ],
)
def test_an_invalid_field_is_pointed_at(api: Api, fields: dict[str, Any], pointer: str) -> None:
    assert _pointers(api.post("/v1/jobs", written(**fields))) == [pointer]


def test_a_missing_field_is_pointed_at(api: Api) -> None:
    assert _pointers(api.post("/v1/jobs", {"shortcut": "A", "dataset": "digits"})) == ["/depth"]


def test_the_message_of_an_invalid_depth_has_the_nearest_valid_ones(api: Api) -> None:
    answer = api.post("/v1/jobs", written(depth=33))
    (error,) = answer.json()["errors"]
    assert error["message"] == ("must be 6n+2 for a cifar network; nearest: 32 and 38; received 33")


def test_the_message_of_a_job_too_large_for_the_cluster_has_its_size(api: Api) -> None:
    api.core.record_cluster(cpus=4)
    answer = api.post("/v1/jobs", written(resources={"num_workers": 8}))
    problem = _problem(answer, 422, "cannot-fit")
    (error,) = problem["errors"]
    assert error == {
        "location": "body",
        "pointer": "/resources",
        "message": "8 workers need 8 CPUs; the cluster has 4",
    }


@pytest.mark.parametrize("body", [b"{", b"", b"depth: 20", b"\xff\xfe", b"[" * 100_000, b"\x00"])
def test_a_body_that_is_not_json_is_refused(api: Api, body: bytes) -> None:
    answer = api.call(
        "POST", "/v1/jobs", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in (400, 422)
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("body", [None, 7, "x", [], [written()], {}, {"depth": {}}])
def test_json_that_is_not_a_spec_is_refused(api: Api, body: Any) -> None:
    _problem(api.post("/v1/jobs", body), 422, "invalid-input")


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "/limit"),
        ("limit=1001", "/limit"),
        (f"limit={10**30}", "/limit"),
        ("limit=x", "/limit"),
        ("page_token=a%00b", "/page_token"),
        ("page_token=UPPER", "/page_token"),
        ("page_token=" + "0" * 17, "/page_token"),
        ("state=done", "/state/0"),
        ("name=%00", "/name"),
        ("tag=%00", "/tag/0"),
        ("dataset=%00", "/dataset"),
    ],
)
def test_an_invalid_query_parameter_is_pointed_at(any_api: Api, query: str, pointer: str) -> None:
    assert _pointers(any_api.get(f"/v1/jobs?{query}")) == [pointer]


@pytest.mark.parametrize(
    "query", ["name=%ED%A0%80", "tag=%25_%5C", "id_prefix=%00", "dataset=%F0%9F%98%80", "name='"]
)
def test_a_filter_without_a_match_finds_nothing(any_api: Api, query: str) -> None:
    any_api.core.submit()
    answer = any_api.get(f"/v1/jobs?{query}")
    assert answer.status_code == 200
    assert answer.json() == {"jobs": [], "next_page_token": None}


WEIRD_IDS = ["x", "0" * 16, "0" * 17, "\x00", "a\x00b", "..", "%", "\U0001f600", "0e3k' --", "A"]


@pytest.mark.parametrize("job_id", WEIRD_IDS)
def test_an_unknown_job_is_not_found(any_api: Api, job_id: str) -> None:
    for rest in ("", "/progress", "/metrics", "/events", "/logs", "/attempts", "/checkpoints"):
        path = f"/v1/jobs/{quote(job_id, safe='')}{rest}".replace("/../", "/%2E%2E/")
        assert any_api.get(path).status_code == 404, path
    answer = any_api.get(f"/v1/jobs/{quote(job_id, safe='')}/checkpoints/best/weights")
    assert answer.status_code == 404


@pytest.mark.parametrize("selector", WEIRD_IDS)
def test_an_unknown_checkpoint_is_not_found(any_api: Api, selector: str) -> None:
    job_id = any_api.core.submit()
    answer = any_api.get(f"/v1/jobs/{job_id}/checkpoints/{quote(selector, safe='')}/weights")
    assert answer.status_code == 404


@pytest.mark.parametrize("rest", ["", "-a", "-a2", "-a1\x00", "-a\x00", "-a٣"])
def test_an_unknown_attempt_is_refused(any_api: Api, rest: str) -> None:
    claimed = any_api.core.run()
    attempt_id = quote(f"{job_id_of(claimed)}{rest}", safe="")
    answer = any_api.get(f"/v1/attempts/{attempt_id}", token=claimed.secret)
    _problem(answer, 401, "unauthorized")


@pytest.mark.parametrize("path", ["/v1/jobs/", "/nowhere", "/v1"])
def test_an_unknown_path_is_not_found(api: Api, path: str) -> None:
    _problem(api.get(path), 404, "not-found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/jobs", "GET, POST"),
        ("POST", "/v1/jobs/0", "GET, PATCH, DELETE"),
        ("PUT", "/v1/jobs/0/checkpoints/best/weights", "GET, HEAD"),
        ("GET", "/v1/jobs:plan", "POST"),
        ("POST", "/v1/session/x", None),
        ("POST", "/v1/health", "GET"),
        ("POST", "/submit", "GET"),
    ],
)
def test_a_method_that_a_path_does_not_have_is_refused_with_all_that_it_has(
    api: Api, method: str, path: str, allowed: str | None
) -> None:
    answer = api.call(method, path)
    if allowed is None:
        assert _problem(answer, 404, "not-found")["detail"] == f"there is nothing at {path}"
        return
    assert path in _problem(answer, 405, "method-not-allowed")["detail"]
    assert answer.headers["Allow"] == allowed


@pytest.mark.parametrize(
    ("request_of", "location", "pointer"),
    [
        (lambda api: api.post("/v1/jobs", written(seed=-1)), "body", "/seed"),
        (lambda api: api.get("/v1/jobs?limit=0"), "query", "/limit"),
        (lambda api: api.get("/v1/jobs?where=nonsense"), "query", "/where"),
        (
            lambda api: api.post("/v1/jobs", written(), headers={"Idempotency-Key": 201 * "x"}),
            "header",
            "/idempotency-key",
        ),
        (
            lambda api: api.post(
                "/v1/tokens", {"label": "x", "expires_at": "2000-01-01T00:00:00Z"}
            ),
            "body",
            "/expires_at",
        ),
    ],
)
def test_a_mistake_is_located_in_the_part_of_the_request_that_has_it(
    api: Api, request_of: Callable[[Api], httpx.Response], location: str, pointer: str
) -> None:
    (error,) = _problem(request_of(api), 422, "invalid-input")["errors"]
    assert (error["location"], error["pointer"]) == (location, pointer)


def test_all_mistakes_of_a_request_are_listed_at_once(api: Api) -> None:
    recipe = {"name": "slow", "batch_size": 0, "itertions": 5}
    answer = api.post("/v1/jobs", written(depth=33, seed=-1, recipe=recipe))
    pointers = ["/depth", "/recipe/name", "/recipe/batch_size", "/recipe/itertions", "/seed"]
    assert sorted(_pointers(answer)) == sorted(pointers)


def test_what_the_cluster_and_other_jobs_refuse_is_listed_at_once(api: Api) -> None:
    api.core.record_cluster(cpus=4)
    fields = {"start_from": {"job": "0" * 16}, "after": ["1" * 16]}
    answer = api.post("/v1/jobs", written(resources={"num_workers": 8}, **fields))
    assert _pointers(answer) == ["/resources", "/start_from/job", "/after/0/job"]


def test_an_unknown_name_is_refused_with_the_nearest(api: Api) -> None:
    for fields, nearest in (
        ({"dataset": "cifar-10"}, "cifar10"),
        ({"recipe": "paper_cifar"}, "paper-cifar"),
        ({"recipe": {"name": "quik"}}, "quick"),
    ):
        (error,) = api.post("/v1/jobs", written(**fields)).json()["errors"]
        assert f"nearest: {nearest}" in error["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/datasets?name=birds"),
        ("PUT", "/v1/attempts/{attempt_id}/checkpoints/20/weights"),
    ],
)
def test_a_client_that_goes_away_is_no_error_of_the_server(
    api: Api, method: str, path: str
) -> None:
    claimed = api.core.start()
    token = claimed.secret if "attempt" in path else TOKEN
    target = path.format(attempt_id=claimed.attempt_id)
    request = (
        f"{method} {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        f"X-Content-SHA256: {'0' * 64}\r\nContent-Type: application/json\r\n"
        "Content-Length: 100000\r\n\r\n{"
    )
    with structlog.testing.capture_logs() as logged:
        with socket.create_connection(("127.0.0.1", api.http.base_url.port or 0)) as connection:
            connection.sendall(request.encode())
        eventually(lambda: any(event["event"] == "client disconnected" for event in logged))
    (event,) = (event for event in logged if event["event"] == "client disconnected")
    assert (event["event"], event["log_level"]) == ("client disconnected", "info")
    assert event["path"] == target.partition("?")[0]


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_that_is_too_large_is_refused(api: Api, is_chunked: bool) -> None:
    body = b" " * (16 * 2**20 + 1)
    answer = api.call(
        "POST",
        "/v1/jobs",
        content=iter([body]) if is_chunked else body,
        # The server does not read the rest, and so closes the connection.
        headers={"Connection": "close"},
    )
    _problem(answer, 413, "body-too-large")


def test_an_unexpected_error_is_a_problem_with_a_request_id(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("service.jobs.records.find_job", fail)
    # The server closes the connection after such an error; another test would use it again.
    headers = {"Connection": "close"}
    with structlog.testing.capture_logs() as logged:
        _problem(api.get("/v1/jobs/0", headers=headers), 500, "internal")
    assert "request failed" in [event["event"] for event in logged]


FIELDS = [
    *("dataset", "family", "depth", "shortcut", "recipe", "resources", "seed", "priority"),
    *("max_restarts", "time_limit_minutes", "name", "tags", "iterations", "milestones"),
    *("num_workers", "cpus_per_worker", "gpus_per_worker", "batch_size", "lr_gamma"),
]
# With lone surrogates, selector JSON can encode and UTF-8 cannot.
texts = st.text(st.characters(exclude_categories=()), max_size=20)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    texts,
    st.sampled_from(["digits", "folder:x", "quick", "paper-cifar", "A", "none", "cifar", 20, 128]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(FIELDS), texts), inner, max_size=4),
    ),
    max_leaves=8,
)
bodies = st.one_of(
    values,
    st.dictionaries(st.sampled_from(FIELDS), values, max_size=4).map(
        lambda found: written(**found)
    ),
    st.dictionaries(
        st.sampled_from(["name", "iterations", "milestones", "batch_size", "lr_gamma"]),
        values,
        max_size=3,
    ).map(lambda found: written(recipe={"name": "quick"} | found)),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies, key=st.one_of(st.none(), st.text(max_size=5)))
def test_no_body_causes_an_internal_error(any_api: Api, body: Any, key: str | None) -> None:
    headers = {} if key is None else {"Idempotency-Key": quote(key) or "empty"}
    answer = any_api.post("/v1/jobs", body, headers=headers)
    if answer.status_code == 201:
        assert any_api.get(f"/v1/jobs/{answer.json()['id']}").status_code == 200
        return
    assert answer.status_code in (400, 422), (answer.status_code, json.dumps(body))
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["code"]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fields=st.dictionaries(
        st.sampled_from(["sequence", "progress", "environment", "metrics", "logs", "checkpoints"]),
        st.one_of(
            values,
            st.lists(
                st.fixed_dictionaries(
                    {
                        "at": st.one_of(st.datetimes().map(lambda at: f"{at.isoformat()}Z"), texts),
                        "level": st.just("info"),
                        "message": texts,
                    }
                ),
                max_size=2,
            ),
            st.lists(
                st.fixed_dictionaries(
                    {
                        "series": st.sampled_from(["train/loss", "x", "Y"]),
                        "iteration": st.integers(),
                        "value": scalars,
                        "seconds": scalars,
                        "at": st.sampled_from(["2026-11-21T12:00:00Z", "1", ""]),
                    }
                ),
                max_size=2,
            ),
        ),
        max_size=3,
    )
)
def test_no_report_causes_an_internal_error(any_api: Api, fields: dict[str, Any]) -> None:
    claimed = any_api.core.start()
    path = f"/v1/attempts/{claimed.attempt_id}/reports"
    answer = any_api.post(path, {"sequence": 1} | fields, token=claimed.secret)
    assert answer.status_code in (200, 400, 409, 422), (answer.status_code, json.dumps(fields))
    any_api.core.end(claimed, Reason.CANCELLED)
    any_api.core.release(claimed)


_REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "http.md"
# Raised by no route: by dispatchers, and by workers that do not reach the API.
_OF_WORKERS = {errors.DispatcherAlreadyRunning, errors.LeaseLost, errors.ApiUnavailable}


def test_every_code_of_the_document_is_explained() -> None:
    text = _REFERENCE.read_text(encoding="utf-8")
    assert [code for code in sorted(_list_codes(DOCUMENT)) if f"`{code}`" not in text] == []


def _list_codes(document: Any) -> set[str]:
    """Of all problems in the OpenAPI document."""
    if isinstance(document, list):
        return set().union(*map(_list_codes, document))
    if not isinstance(document, dict):
        return set()
    own = set(document["code"].get("enum", ())) if isinstance(document.get("code"), dict) else set()
    return own.union(*map(_list_codes, document.values()))


@pytest.mark.parametrize(
    "error",
    [error for error in errors.BY_CODE.values() if error not in _OF_WORKERS | {ResnetdError}],
)
def test_every_error_has_a_documented_status(error: type[ResnetdError]) -> None:
    app = FastAPI()
    problems.install(app)

    @app.get("/")
    def fail() -> None:
        raise error("why")

    async def get() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/")

    answer = asyncio.run(get()).json()
    assert answer["code"] == error.code
    row = rf"^\| [^|]*{answer['status']}[^|]* \|[^|]*`{error.code}`"
    assert re.search(row, _REFERENCE.read_text(encoding="utf-8"), re.MULTILINE)
