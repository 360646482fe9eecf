"""Who sends too much gets 429 with the time to wait; the processes of the cluster never do."""

import asyncio
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

import resnetd
from api import request_limits
from api.auth import SIGN_IN_COOKIE
from api.request_limits import BURST_SECONDS, RateLimiter, RequestLimits
from service.settings import Settings
from tests.client.faults import FaultyTransport
from tests.support.api import Api, read_events, serving_new

TOKENS = {"Bearer ann": "token-of-ann", "Bearer ben": "token-of-ben"}


class Limited:
    """An application that accepts TOKENS, behind limits of 1 and 2 requests per second."""

    def __init__(self, **limits: float) -> None:
        chosen: dict[str, Any] = {"requests_per_second": 2, "anonymous_requests_per_second": 1}
        settings = Settings(**chosen | limits)
        self.now = 0.0
        self.app = RequestLimits(self._answer, settings, get_time=lambda: self.now)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = dict(scope["headers"]).get(b"authorization", b"").decode()
        if sent in TOKENS:
            scope["state"]["token_id"] = TOKENS[sent]
        status = 200 if sent in TOKENS or scope["path"] == "/v1/health" else 401
        await PlainTextResponse(status_code=status)(scope, receive, send)

    def call(
        self, token: str | None = None, *, path: str = "/v1/jobs", address: str | None = "192.0.2.1"
    ) -> tuple[int, int]:
        """The status, and the seconds to wait."""
        headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
        client = None if address is None else (address, 1)
        scope: Scope = {
            "type": "http",
            "path": path,
            "headers": headers,
            "client": client,
            "state": {},
        }
        started: dict[str, Any] = {}

        async def send(message: Any) -> None:
            started.update(message)

        asyncio.run(self.app(scope, None, send))  # type: ignore[arg-type]
        wait = dict(started["headers"]).get(b"retry-after", b"0")
        return started["status"], int(wait)

    def count_accepted(self, **call: Any) -> int:
        """Of requests at once, before the first is refused."""
        count = 0
        while self.call(**call)[0] != 429:
            count += 1
        return count


def test_a_rate_is_kept_on_average_and_its_burst_at_once() -> None:
    now = 0.0
    limiter = RateLimiter(4, get_time=lambda: now)
    assert [limiter.take("a") for _ in range(40)] == [0.0] * 40
    assert limiter.take("a") == pytest.approx(0.25)
    assert limiter.take("b") == 0.0
    now = 1.0
    assert sum(limiter.take("a") == 0.0 for _ in range(20)) == 4
    now = 1000.0
    assert sum(limiter.take("a") == 0.0 for _ in range(100)) == 40


def test_a_rate_below_one_in_a_burst_permits_one() -> None:
    limiter = RateLimiter(0.01, get_time=lambda: 0.0)
    assert limiter.take("a") == 0.0
    assert limiter.take("a") == pytest.approx(100.0)


def test_each_token_has_its_own_limit_and_the_answer_says_how_long_to_wait() -> None:
    app = Limited()
    for token in ("ann", "ben"):
        # The first request counts for the address, which does not know the token yet.
        assert app.count_accepted(token=token) == 1 + 2 * BURST_SECONDS
        assert app.call(token) == (429, 1)
    app.now = 1.0
    assert app.count_accepted(token="ann") == 2


@pytest.mark.parametrize("tokens", [[None], [f"guess-{number}" for number in range(30)]])
def test_all_requests_without_a_valid_token_count_for_their_address(
    tokens: list[str | None],
) -> None:
    app = Limited()
    app.call("ann")
    answers = [app.call(token)[0] for token in tokens * (30 // len(tokens))]
    assert answers == [401] * (int(BURST_SECONDS) - 1) + [429] * (31 - int(BURST_SECONDS))
    assert app.call("ann")[0] == 200, "a valid token is not concerned"
    assert app.call(address="192.0.2.2")[0] == 401


def test_a_valid_token_of_a_public_route_is_not_accepted_unseen() -> None:
    app = Limited()
    assert app.count_accepted(token="unknown", path="/v1/health") == BURST_SECONDS


def test_a_token_that_has_ended_counts_for_its_address_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = Limited()
    assert app.call("ann")[0] == 200
    monkeypatch.delitem(TOKENS, "Bearer ann")
    assert app.count_accepted(token="ann") == 1 + BURST_SECONDS - 1


def test_addresses_of_one_ipv6_network_share_a_limit() -> None:
    app = Limited()
    app.count_accepted(address="2001:db8::1")
    assert app.call(address="2001:db8::2")[0] == 429
    assert app.call(address="2001:db8:0:1::1")[0] == 401


@pytest.mark.parametrize(
    "call",
    [
        {"path": "/v1/attempts/0f3k000000000001-a1/reports"},
        {"path": "/v1/runners/runner-0f3k000000000001/next"},
        {"path": "/v1/drivers/search-0f3k000000000001-d1/trials"},
        {"address": None},
    ],
)
def test_processes_of_the_cluster_and_the_api_itself_are_not_limited(call: Any) -> None:
    app = Limited(anonymous_requests_per_second=0.01)
    assert {app.call(**call)[0] for _ in range(100)} == {401}


def test_without_a_limit_nothing_is_refused() -> None:
    app = Limited(anonymous_requests_per_second=0, requests_per_second=0)
    assert {app.call(token)[0] for token in (None, "ann") for _ in range(50)} == {401, 200}


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_limits, "_MAX_KEYS", 3)
    limiter = RateLimiter(1, get_time=lambda: 0.0)
    for key in "abcd":
        limiter.take(key)
    assert [*limiter._covered_until] == [*"bcd"]


@pytest.fixture
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    path = tmp_path_factory.mktemp("limited")
    limits = {"requests_per_second": 1.0, "anonymous_requests_per_second": 1.0, "max_streams": 1}
    with serving_new(f"sqlite:///{path / 'api.db'}", path, **limits) as served:
        yield served


def test_a_refused_request_has_a_problem_and_a_sign_in_shares_the_limit_of_its_token(
    limited: Api,
) -> None:
    token = limited.add_person("ann")
    signed_in = limited.call(
        "POST", "/v1/session", token=None, json={"token": token}, headers={"X-Requested-With": "x"}
    )
    cookie = {"Cookie": f"{SIGN_IN_COOKIE}={signed_in.cookies[SIGN_IN_COOKIE]}"}
    limited.http.cookies.clear()
    answers = [limited.get("/v1/session", token=token) for _ in range(8)]
    answers += [limited.get("/v1/session", token=None, headers=cookie) for _ in range(8)]
    statuses = [answer.status_code for answer in answers]
    # One each counted for the address.
    assert statuses == [200] * 12 + [429] * 4 or statuses == [200] * 13 + [429] * 3
    refused = answers[-1]
    assert refused.json()["code"] == "too-many-requests"
    assert refused.json()["detail"].startswith("more than 1 requests per second with one token; ")
    assert refused.headers["Retry-After"] == "1"
    assert refused.headers["X-Request-Id"] == refused.json()["request_id"]


def test_a_token_has_a_limited_number_of_open_streams(limited: Api) -> None:
    limited.get("/v1/session")
    job_id = limited.core.submit()
    with limited.stream(job_id) as events:
        next(events)
        refused = limited.get(f"/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream"})
        assert (refused.status_code, refused.json()["code"]) == (429, "too-many-requests")
        assert refused.json()["detail"] == "more than 1 stream open; try again in 5 s"
        assert limited.get(f"/v1/jobs/{job_id}/events").status_code == 200, "a list is no stream"
    limited.core.cancel(job_id)
    with limited.stream(job_id) as events:
        assert [event["event"] for event in events][-1] == "state"


def test_the_client_waits_as_long_as_the_answer_says(limited: Api) -> None:
    transport = FaultyTransport()
    token = limited.add_person("ann")
    made = 0
    with resnetd.Client(limited.url, token, transport=transport) as client:
        while len(transport.requests) == made:
            assert client.whoami().user == "ann"
            made += 1
    assert len(transport.requests) == made + 1, "one was refused, and its repetition was not"


def test_a_stream_reads_as_often_as_it_must(limited: Api) -> None:
    """What the process requests of itself does not count."""
    limited.get("/v1/session")
    params = {"read": ["/v1/jobs"] * 20}
    headers = {"Authorization": f"Bearer {limited.core.add_person('ann')}"}
    with limited.http.stream("GET", "/v1/stream", params=params, headers=headers) as answer:
        seen = [message["data"] for message in islice(read_events(answer.iter_lines()), 20)]
    assert [message["status"] for message in seen] == [200] * 20
