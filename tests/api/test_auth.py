"""Which token is valid for which routes."""

import pytest
from fastapi.routing import iter_route_contexts

from api import dashboard
from api.app import create_app
from service.settings import Settings
from tests.support.api import TOKEN, Api
from tests.support.core import Taken, job_id_of
from tests.support.searching import Searching

# Health, the description of the API, and the pages, which read everything through the API.
PUBLIC = {"/v1/health", "/v1/openapi.json", "/v1/docs", *dashboard.PAGES}
# It takes the token in its body.
SIGN_IN = ("POST", "/v1/session")


def _routes() -> list[tuple[str, str]]:
    return [
        (method, context.path)
        for context in iter_route_contexts(create_app(Settings()).routes)
        if context.path is not None
        for method in sorted((context.methods or set()) - {"HEAD"})
        if (method, context.path) != SIGN_IN
    ]


def _filled(path: str) -> str:
    values = {
        "job_id": "0" * 16,
        "attempt_id": "0" * 16 + "-a1",
        "runner_id": "runner-" + "0" * 16,
        "checkpoint": "newest",
        "iteration": "1",
        "part": "weights",
        "position": "0",
        "webhook_id": "0" * 16,
        "alert_id": "0" * 16,
        "share_id": "0" * 16,
        "model_id": "0" * 16,
        "version": "1",
        "alias": "production",
        "search_id": "0" * 16,
        "study_id": "0" * 16,
        "comparison_id": "0" * 16,
        "token_id": "0" * 16,
        "name": "ann",
        "name:path": "birds/large",
        "dataset": "folder:birds",
        "key": "user:ann",
        "driver_id": "search-" + "0" * 16 + "-d1",
    }
    for name, value in values.items():
        path = path.replace(f"{{{name}}}", value)
    assert "{" not in path
    return path


def test_every_route_that_is_not_public_needs_a_token(api: Api) -> None:
    routes = _routes()
    assert len(routes) > 15
    for method, path in routes:
        answer = api.call(method, _filled(path), token=None)
        assert (answer.status_code == 200) is (path in PUBLIC), (method, path)
        if path not in PUBLIC:
            assert answer.status_code == 401, (method, path)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert answer.json()["code"] == "unauthorized"


def test_every_route_that_is_not_public_refuses_an_unknown_token(api: Api) -> None:
    for method, path in _routes():
        if path not in PUBLIC:
            answer = api.call(method, _filled(path), token="x" * 43)
            assert answer.status_code == 401, (method, path)


@pytest.mark.parametrize(
    "header", ["", "Bearer", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xff"]
)
def test_an_invalid_authorization_header_is_refused(api: Api, header: str) -> None:
    sent = [(b"Authorization", header.encode("latin-1"))]
    answer = api.http.get("/v1/jobs", headers=sent)
    assert answer.status_code == 401


def test_the_scheme_is_case_insensitive(api: Api) -> None:
    answer = api.http.get("/v1/jobs", headers={"Authorization": f"bEARER  {TOKEN}"})
    assert answer.status_code == 200


def _routes_of(of: str) -> list[tuple[str, str]]:
    """The routes of attempts, runners, drivers or users."""
    found: dict[str, list[tuple[str, str]]] = {
        name: [] for name in ("attempts", "runners", "drivers", "users")
    }
    for method, path in _routes():
        if path.startswith("/v1/attempts/"):
            found["attempts"].append((method, path))
        elif path.startswith("/v1/runners/"):
            found["runners"].append((method, path))
        elif path.startswith("/v1/drivers/"):
            found["drivers"].append((method, path))
        elif path not in PUBLIC:
            found["users"].append((method, path))
    return found[of]


def _assert_refused(
    api: Api, token: str, routes: list[tuple[str, str]], *, attempt: Taken, runner_id: str
) -> None:
    """401 from all routes, with ids in their paths that exist."""
    assert routes
    for method, path in routes:
        target = path.replace("{attempt_id}", attempt.attempt_id)
        target = target.replace("{job_id}", job_id_of(attempt))
        target = _filled(target.replace("{runner_id}", runner_id))
        answer = api.call(method, target, token=token)
        assert answer.status_code == 401, (method, path)


def test_a_users_token_is_invalid_for_attempts_runners_and_drivers(api: Api) -> None:
    taken = api.core.run()
    routes = _routes_of("attempts") + _routes_of("runners") + _routes_of("drivers")
    _assert_refused(api, TOKEN, routes, attempt=taken, runner_id=taken.runner_id)


def test_the_token_of_an_attempt_is_invalid_for_users_runners_and_drivers(api: Api) -> None:
    taken = api.core.run()
    routes = _routes_of("users") + _routes_of("runners") + _routes_of("drivers")
    _assert_refused(api, taken.secret, routes, attempt=taken, runner_id=taken.runner_id)


def test_the_token_of_an_attempt_is_invalid_for_other_attempts(api: Api) -> None:
    first, second = api.core.run(), api.core.run()
    routes = _routes_of("attempts")
    _assert_refused(api, second.secret, routes, attempt=first, runner_id=first.runner_id)


def test_the_token_of_a_runner_is_invalid_for_users_and_attempts(api: Api) -> None:
    api.core.record_cluster(cpus=4)
    start = api.core.start_warm_runner()
    api.core.submit()
    taken = api.core.start_next()
    assert taken.runner_id == start.id
    routes = _routes_of("users") + _routes_of("attempts")
    _assert_refused(api, start.secret, routes, attempt=taken, runner_id=start.id)


def test_the_token_of_a_runner_is_invalid_for_other_runners(api: Api) -> None:
    taken = api.core.run()
    start = api.core.start_warm_runner()
    routes = _routes_of("runners")
    _assert_refused(api, start.secret, routes, attempt=taken, runner_id=taken.runner_id)


def test_the_token_of_a_driver_is_invalid_for_users_attempts_and_runners(api: Api) -> None:
    taken = api.core.run()
    searching = Searching(api.core)
    searching.submit()
    (start,) = searching.start_drivers()
    routes = _routes_of("users") + _routes_of("attempts") + _routes_of("runners")
    _assert_refused(api, start.secret, routes, attempt=taken, runner_id=taken.runner_id)
