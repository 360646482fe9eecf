"""Requests that the process sends to itself for several streams."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from api import shared_reads
from api.shared_reads import JsonResponse, SharedReads
from service.storage.visibility import Visibility

ANN = [(b"authorization", b"Bearer ann")]
ALL = Visibility()
REMOVED = [(b"authorization", b"Bearer removed")]


class _App:
    """Knows one token."""

    def __init__(self) -> None:
        self.requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        self.requests += 1
        status = 200 if scope["headers"] == ANN else 401
        start: Message = {"type": "http.response.start", "status": status, "headers": []}
        await send(start)
        await send({"type": "http.response.body", "body": b'{"next": 7}'})


@pytest.fixture(autouse=True)
def _one_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_reads, "TICK_SECONDS", 1e9)


def test_what_several_streams_read_is_requested_once() -> None:
    app = _App()
    shared = SharedReads(app)

    async def read() -> list[JsonResponse]:
        reads = (shared.read("/v1/jobs", ANN, visibility=ALL) for _ in range(5))
        return await asyncio.gather(*reads)

    assert asyncio.run(read()) == [JsonResponse(200, '{"next": 7}', "7")] * 5
    assert app.requests == 1


def test_those_who_see_different_rows_share_no_response() -> None:
    app = _App()
    shared = SharedReads(app)
    seen = (ALL, Visibility(user="ann"), Visibility(user="bob"), Visibility(tag="ann"))

    async def read() -> None:
        reads = (shared.read("/v1/jobs", ANN, visibility=visibility) for visibility in seen)
        await asyncio.gather(*reads)

    asyncio.run(read())
    assert app.requests == len(seen)


def test_a_removed_token_of_one_stream_leaves_the_others_their_response() -> None:
    shared = SharedReads(_App())

    async def read() -> list[int]:
        both = (shared.read("/v1/jobs", headers, visibility=ALL) for headers in (REMOVED, ANN))
        return [response.status for response in await asyncio.gather(*both)]

    assert asyncio.run(read()) == [401, 200]
