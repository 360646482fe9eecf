"""Calls of runners: answered at once, or as soon as there is an attempt."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from service.execution import runners
from service.execution.ray_job_lifecycle import RayJobSubmission
from service.resources import WorkerGroup
from service.scheduling.leases import Claim
from service.specs.protocol import NextAttemptResponse
from service.states import RayJobState
from service.storage.tables import RunnerRow
from tests.support.api import TOKEN, Api
from tests.support.core import ONE_WORKER, START, workers
from tests.support.fake_api import eventually

EMPTY = {"assignment": None, "should_exit": False}
DISMISSED = {"assignment": None, "should_exit": True}

Waiting = Callable[[Api, RayJobSubmission[RunnerRow]], Future[httpx.Response]]


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    """Polls in a thread of its own, with the longest wait; the API has received the request."""
    with ThreadPoolExecutor() as threads:

        def ask(api: Api, start: RayJobSubmission[RunnerRow]) -> Future[httpx.Response]:
            before = api.core.runner(start.id).last_seen_at
            api.core.clock.advance(1.0)
            answer = threads.submit(api.ask, start, wait_seconds=60)
            eventually(lambda: api.core.runner(start.id).last_seen_at != before)
            assert not answer.done()
            return answer

        yield ask


def _warm_runner(api: Api, shape: WorkerGroup = ONE_WORKER) -> RayJobSubmission[RunnerRow]:
    """A ready runner that has polled once and got no attempt."""
    start = api.core.start_warm_runner(shape)
    assert api.ask(start).json() == EMPTY
    return start


def _attempt_in(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    response = NextAttemptResponse.model_validate_json(answer.content)
    assert response.assignment is not None
    assert not response.should_exit
    return response.assignment.config.attempt_id


def _claim(api: Api, **fields: Any) -> Claim:
    api.core.submit(**fields)
    return api.core.claim()


def _finish(api: Api, start: RayJobSubmission[RunnerRow]) -> None:
    """Ends the attempt of the runner."""
    attempt_id = api.core.runner(start.id).attempt_id
    assert attempt_id is not None
    api.core.finish(attempt_id)


def test_a_runner_gets_its_attempt_with_a_token_for_it(api: Api) -> None:
    api.core.record_cluster(cpus=4)
    start = _warm_runner(api)
    claimed = _claim(api, seed=7)
    answer = api.ask(start)
    assert _attempt_in(answer) == claimed.attempt_id
    assignment = answer.json()["assignment"]
    brief = api.get(f"/v1/attempts/{claimed.attempt_id}", token=assignment["token"])
    assert brief.json() == assignment["config"]
    assert brief.json()["spec"]["seed"] == 7


def test_a_poll_without_a_wait_is_answered_at_once(api: Api) -> None:
    api.core.record_cluster(cpus=4)
    start = api.core.start_warm_runner()
    assert api.ask(start).json() == EMPTY
    assert api.core.runner(start.id).state is RayJobState.READY


def test_the_response_is_empty_when_the_wait_is_over(api: Api) -> None:
    api.core.record_cluster(cpus=4)
    start = api.core.start_warm_runner()
    began = time.monotonic()
    assert api.ask(start, wait_seconds=0.3).json() == EMPTY
    assert time.monotonic() - began >= 0.3


def test_a_claim_ends_the_wait_within_a_fraction_of_a_second(
    any_api: Api, waiting: Waiting
) -> None:
    any_api.core.record_cluster(cpus=4)
    start = _warm_runner(any_api)
    took = []
    for _ in range(3):
        answer = waiting(any_api, start)
        began = time.monotonic()
        claimed = _claim(any_api)
        assert _attempt_in(answer.result()) == claimed.attempt_id
        took.append(time.monotonic() - began)
        _finish(any_api, start)
    assert min(took) < 0.5


def test_the_wait_continues_while_other_runners_get_attempts(api: Api, waiting: Waiting) -> None:
    api.core.record_cluster(cpus=4)
    large, small = _warm_runner(api, WorkerGroup(2, 1, 0)), _warm_runner(api)
    answers = {start: waiting(api, start) for start in (large, small)}
    first = _claim(api)
    assert _attempt_in(answers[small].result()) == first.attempt_id
    assert not answers[large].done()
    second = _claim(api, resources=workers(2))
    assert _attempt_in(answers[large].result()) == second.attempt_id


def test_a_warm_runner_that_is_drained_for_another_job_is_dismissed_at_once(
    any_api: Api, waiting: Waiting
) -> None:
    any_api.core.record_cluster(cpus=2)
    start = _warm_runner(any_api)
    answer = waiting(any_api, start)
    _claim(any_api, resources=workers(2))
    any_api.core.start_runners()
    assert answer.result(timeout=10.0).json() == DISMISSED


def test_a_runner_that_is_drained_while_it_waits_is_dismissed_at_once(
    any_api: Api, waiting: Waiting
) -> None:
    any_api.core.record_cluster(cpus=4)
    start = _warm_runner(any_api)
    answer = waiting(any_api, start)
    with any_api.core.database.transaction() as session:
        runners.drain_runner(session, start.id, now=any_api.core.clock.now)
    assert answer.result(timeout=10.0).json() == DISMISSED


def test_a_terminated_runner_is_dismissed(api: Api) -> None:
    api.core.record_cluster(cpus=4)
    start = _warm_runner(api)
    with api.core.database.transaction() as session:
        runners.mark_terminated(session, start.id, now=api.core.clock.now)
    assert api.ask(start, wait_seconds=60).json() == DISMISSED


def test_a_runner_is_free_while_its_trained_attempt_delivers(api: Api) -> None:
    api.core.record_cluster(cpus=1)
    start = _warm_runner(api)
    first = api.core.take(_claim(api))
    assert api.ask(start, trained_attempt_id=first.attempt_id).json() == EMPTY
    second = _claim(api)
    assert _attempt_in(api.ask(start, trained_attempt_id=first.attempt_id)) == second.attempt_id
    assert api.report(first, 1).status_code == 200


def test_a_leaving_runner_gets_its_unfinished_attempt(api: Api) -> None:
    api.core.record_cluster(cpus=4)
    start = _warm_runner(api)
    claimed = _claim(api)
    taken = api.core.take(claimed)
    answer = api.ask(start, is_exiting=True)
    assert _attempt_in(answer) == claimed.attempt_id
    assert api.attempt(taken).status_code == 401, "its processes have died"
    path = f"/v1/attempts/{claimed.attempt_id}/finish"
    token = answer.json()["assignment"]["token"]
    assert api.post(path, {"reason": "diverged"}, token=token).status_code == 200
    assert api.ask(start).json() == DISMISSED


def test_a_leaving_runner_without_an_attempt_is_dismissed_at_once(api: Api) -> None:
    api.core.record_cluster(cpus=4)
    start = _warm_runner(api)
    assert api.ask(start, is_exiting=True, wait_seconds=60).json() == DISMISSED
    assert api.core.runner(start.id).state is RayJobState.DRAINING


def test_a_disconnected_runner_takes_no_attempt(api: Api, waiting: Waiting) -> None:
    api.core.record_cluster(cpus=4)
    start, witness = _warm_runner(api), _warm_runner(api, WorkerGroup(2, 1, 0))
    path = f"/v1/runners/{start.id}/next"
    with pytest.raises(httpx.ReadTimeout):
        api.post(path, {"wait_seconds": 60}, token=start.secret, timeout=0.3)
    answer = waiting(api, witness)
    claimed = _claim(api)
    _claim(api, resources=workers(2))
    _attempt_in(answer.result())
    for _ in range(10):
        api.get("/v1/health")
    assert api.core.attempt(claimed.attempt_id).assigned_at is None
    assert _attempt_in(api.ask(start)) == claimed.attempt_id


@pytest.mark.parametrize("path", ["persons", "attempts", "other runners"])
def test_a_runners_own_token_is_the_only_valid_one(api: Api, path: str) -> None:
    api.core.record_cluster(cpus=4)
    start, other = _warm_runner(api), _warm_runner(api)
    claimed = api.core.take(_claim(api))
    token = {"persons": TOKEN, "attempts": claimed.secret, "other runners": other.secret}[path]
    before = api.core.runner(claimed.runner_id)
    assert claimed.runner_id == start.id
    api.core.clock.advance(1.0)
    answer = api.ask(start, token=token, is_exiting=True)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    after = api.core.runner(claimed.runner_id)
    assert (after.state, after.last_seen_at) == (before.state, before.last_seen_at)


@pytest.mark.parametrize(
    ("question", "pointer"),
    [
        ({"wait_seconds": 61}, "/wait_seconds"),
        ({"wait_seconds": -1}, "/wait_seconds"),
        ({"wait_seconds": float("nan")}, "/wait_seconds"),
        ({"is_exiting": "perhaps"}, "/is_exiting"),
    ],
)
def test_an_invalid_poll_is_refused(api: Api, question: dict[str, Any], pointer: str) -> None:
    api.core.record_cluster(cpus=4)
    answer = api.ask(_warm_runner(api), **question)
    assert answer.status_code == 422
    assert [fault["pointer"] for fault in answer.json()["errors"]] == [pointer]


def test_users_see_all_runners_that_have_not_terminated(api: Api) -> None:
    api.core.record_cluster(cpus=4)
    terminated, busy = _warm_runner(api), _warm_runner(api, WorkerGroup(2, 1, 0))
    with api.core.database.transaction() as session:
        runners.mark_terminated(session, terminated.id, now=api.core.clock.now)
    claimed = _claim(api, resources=workers(2))
    planned = _claim(api)
    answer = api.get("/v1/runners")
    assert answer.json()["runners"] == [
        {
            "id": busy.id,
            "state": "ready",
            "num_workers": 2,
            "cpus_per_worker": 1,
            "gpus_per_worker": 0,
            "busy": True,
            "attempt_id": claimed.attempt_id,
            "attempts_left": 100,
            "created_at": _at(2),
            "submitted_at": _at(2),
            "ready_at": _at(2),
        },
        {
            "id": planned.runner_id,
            "state": "planned",
            "num_workers": 1,
            "cpus_per_worker": 1,
            "gpus_per_worker": 0,
            "busy": True,
            "attempt_id": planned.attempt_id,
            "attempts_left": 1,
            "created_at": _at(4),
            "submitted_at": None,
            "ready_at": None,
        },
    ]


def _at(second: int) -> str:
    return START.replace(second=second).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_the_list_of_runners_may_be_empty(api: Api) -> None:
    assert api.get("/v1/runners").json() == {"runners": []}
