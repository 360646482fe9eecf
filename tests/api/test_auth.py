"""Who may open which door."""

import pytest
from fastapi.routing import iter_route_contexts

from api.app import create_app
from service.settings import Settings
from tests.support.api import TOKEN, Api
from tests.support.core import job_id_of

# Health, and what describes the API itself: no word of anybody's in them.
OPEN = {"/v1/health", "/v1/openapi.json", "/v1/docs"}


def _routes() -> list[tuple[str, str]]:
    return [
        (method, context.path)
        for context in iter_route_contexts(create_app(Settings()).routes)
        if context.path is not None
        for method in sorted((context.methods or set()) - {"HEAD"})
    ]


def _filled(path: str) -> str:
    names = ("job_id", "attempt_id", "which", "iteration", "part", "webhook_id")
    values = ("0" * 16, "0" * 16 + "-a1", "newest", "1", "weights", "0" * 16)
    for name, value in zip(names, values, strict=True):
        path = path.replace(f"{{{name}}}", value)
    assert "{" not in path
    return path


def test_every_route_but_the_open_ones_needs_a_token(api: Api) -> None:
    routes = _routes()
    assert len(routes) > 15
    for method, path in routes:
        answer = api.call(method, _filled(path), token=None)
        assert (answer.status_code == 200) is (path in OPEN), (method, path)
        if path not in OPEN:
            assert answer.status_code == 401, (method, path)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert answer.json()["code"] == "unauthorized"


def test_every_route_but_the_open_ones_refuses_an_unknown_token(api: Api) -> None:
    for method, path in _routes():
        if path not in OPEN:
            answer = api.call(method, _filled(path), token="x" * 43)
            assert answer.status_code == 401, (method, path)


@pytest.mark.parametrize(
    "header", ["", "Bearer", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xff"]
)
def test_what_is_no_token_of_ours_is_refused(api: Api, header: str) -> None:
    sent = [(b"Authorization", header.encode("latin-1"))]
    answer = api.http.get("/v1/jobs", headers=sent)
    assert answer.status_code == 401


def test_the_name_of_the_scheme_may_be_written_in_any_case(api: Api) -> None:
    answer = api.http.get("/v1/jobs", headers={"Authorization": f"bEARER  {TOKEN}"})
    assert answer.status_code == 200


def test_a_persons_token_is_refused_where_attempts_call(api: Api) -> None:
    claimed = api.core.run()
    for method, path in _routes():
        if path.startswith("/v1/attempts"):
            target = _filled(path.replace("{attempt_id}", claimed.attempt_id))
            assert api.call(method, target).status_code == 401, (method, path)


def test_an_attempts_token_is_refused_where_people_call(api: Api) -> None:
    claimed = api.core.run()
    for method, path in _routes():
        if path not in OPEN and not path.startswith("/v1/attempts"):
            target = _filled(path.replace("{job_id}", job_id_of(claimed)))
            answer = api.call(method, target, token=claimed.secret)
            assert answer.status_code == 401, (method, path)


def test_an_attempts_token_is_refused_for_another_attempt(api: Api) -> None:
    first, second = api.core.run(), api.core.run()
    for method, path in _routes():
        if path.startswith("/v1/attempts"):
            target = _filled(path.replace("{attempt_id}", first.attempt_id))
            answer = api.call(method, target, token=second.secret)
            assert answer.status_code == 401, (method, path)
