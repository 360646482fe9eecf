"""Calls of drivers: answered at once, or as soon as there is an answer."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from service.execution.ray_job_lifecycle import RayJobSubmission
from service.storage.tables import DriverRow
from tests.support.api import TOKEN, Api
from tests.support.fake_api import eventually
from tests.support.searching import Searching


@pytest.fixture
def searching(any_api: Api) -> Searching:
    return Searching(any_api.core)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def _started(searching: Searching) -> RayJobSubmission[DriverRow]:
    searching.submit()
    (start,) = searching.start_drivers()
    return start


def _ask(
    api: Api, start: RayJobSubmission[DriverRow], path: str, token: str | None = None, **body: Any
) -> httpx.Response:
    return api.post(f"/v1/drivers/{start.id}{path}", body, token=token or start.secret)


def _take(api: Api, start: RayJobSubmission[DriverRow], tune_id: str = "a") -> httpx.Response:
    return _ask(api, start, "/trials", tune_id=tune_id, params={"recipe.learning_rate": 0.1})


def test_a_driver_assigns_trials_and_follows_them_to_the_end(
    any_api: Api, searching: Searching
) -> None:
    start = _started(searching)
    config = _ask(any_api, start, "/begin").json()
    assert (config["max_iterations"], config["evaluate_every"], config["known_params"]) == (
        20,
        10,
        [],
    )
    assert _take(any_api, start).json()["number"] == 1
    assert _ask(any_api, start, "/trials/next", tune_id="a").json()["evaluation"] is None
    searching.train(5.0)
    evaluation = _ask(any_api, start, "/trials/next", tune_id="a", after_iteration=10).json()[
        "evaluation"
    ]
    assert evaluation == {"iteration": 20, "values": {"test/error": 5.0}, "is_last": True}
    stop = _ask(any_api, start, "/trials/stop", tune_id="a", iteration=10)
    assert stop.json() == {"should_exit": False}, "the trial has ended"
    assert _ask(any_api, start, "/finish", message="done").status_code == 200
    assert searching.row(start.row.search_id).state == "succeeded"


def test_a_poll_for_an_evaluation_is_answered_when_it_is_reported(
    any_api: Api, searching: Searching, threads: ThreadPoolExecutor
) -> None:
    start = _started(searching)
    _ask(any_api, start, "/begin")
    _take(any_api, start)
    attempt = searching.core.start_next()
    waiting = threads.submit(
        _ask, any_api, start, "/trials/next", tune_id="a", after_iteration=0, wait_seconds=60
    )
    searching.evaluate(attempt, 1, 10, 40.0)
    assert waiting.result(30.0).json()["evaluation"]["iteration"] == 10


def test_a_heartbeat_is_answered_when_the_search_is_cancelled(
    any_api: Api, searching: Searching, threads: ThreadPoolExecutor
) -> None:
    start = _started(searching)
    _ask(any_api, start, "/begin")
    assert _ask(any_api, start, "/heartbeat").json() == {"should_exit": False}
    waiting = threads.submit(_ask, any_api, start, "/heartbeat", wait_seconds=60)
    eventually(lambda: searching.driver(start.id).last_seen_at is not None)
    any_api.post(f"/v1/searches/{start.row.search_id}/cancel")
    assert waiting.result(30.0).json() == {"should_exit": True}
    assert _ask(any_api, start, "/trials/next", tune_id="a").json()["should_exit"]
    for refused in (_take(any_api, start), _ask(any_api, start, "/begin")):
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert _ask(any_api, start, "/trials/stop", tune_id="a", iteration=10).json() == {
        "should_exit": True
    }


def test_a_drivers_own_token_is_the_only_valid_one(any_api: Api, searching: Searching) -> None:
    start = _started(searching)
    for token in (TOKEN, "another token, long enough"):
        assert _ask(any_api, start, "/begin", token).status_code == 401
    searching.terminate_driver(start.row.search_id)
    searching.core.clock.advance(60.0)
    searching.start_drivers()
    assert _ask(any_api, start, "/begin").status_code == 401


def test_parameters_that_make_no_valid_job_are_refused(any_api: Api, searching: Searching) -> None:
    start = _started(searching)
    _ask(any_api, start, "/begin")
    wrong = _ask(any_api, start, "/trials", tune_id="a", params={"recipe.learning_rate": -1.0})
    assert wrong.status_code == 422


def test_a_heartbeat_that_records_nothing_takes_no_write_lock(api: Api) -> None:
    searching = Searching(api.core)
    start = _started(searching)
    assert _ask(api, start, "/begin").is_success
    # On SQLite a transaction that writes locks the database.
    with api.core.database.transaction() as session:
        session.execute(text("SELECT 1"))
        response = _ask(api, start, "/heartbeat")
    assert response.json() == {"should_exit": False}
