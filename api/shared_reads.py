"""GET requests that the process sends to itself, once for all streams that need the response."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message

from service.storage.visibility import Visibility

T = TypeVar("T")

# Reads begin at multiples of this, so that what many streams wait for is read once.
TICK_SECONDS = 0.5
_CREDENTIALS = (b"authorization", b"cookie")


@dataclass(frozen=True)
class JsonResponse:
    """`next`: of the body, the `after` that continues it; None where it has none."""

    status: int
    body: str
    next: str | None


class SharedReads:
    """Only for routes whose response is JSON, and equal for all who see the same rows."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._tick = 0
        self._results: dict[str, asyncio.Task[Any]] = {}

    async def wait_for_tick(self) -> None:
        """Waits for the next time at which reads begin."""
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(TICK_SECONDS - now % TICK_SECONDS)

    async def read(
        self, url: str, headers: Sequence[tuple[bytes, bytes]], *, visibility: Visibility
    ) -> JsonResponse:
        """The response of this tick. `headers`: of the stream, with its credentials."""
        # Of webhooks and alerts there is no stream.
        key = f"{visibility.user!r} {visibility.tag!r} {visibility.shared!r} {url}"
        response = await self.share(key, lambda: self.read_alone(url, headers))
        # The stream that began the read may have lost its token, which says nothing about this one.
        if response.status == HTTPStatus.UNAUTHORIZED:
            return await self.read_alone(url, headers)
        return response

    async def share(self, key: str, compute: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of this tick: the first that asks for the key computes it for the others."""
        tick = int(asyncio.get_running_loop().time() / TICK_SECONDS)
        if tick != self._tick:
            self._tick, self._results = tick, {}
        if key not in self._results:
            self._results[key] = asyncio.create_task(compute())
        # A stream that ends does not take the result from the others.
        result: T = await asyncio.shield(self._results[key])
        return result

    async def read_alone(self, url: str, headers: Sequence[tuple[bytes, bytes]]) -> JsonResponse:
        """A response of now. Shares nothing."""
        status, body = await self.request(url, headers)
        following = json.loads(body).get("next")
        return JsonResponse(status, body.decode(), None if following is None else str(following))

    async def request(self, url: str, headers: Sequence[tuple[bytes, bytes]]) -> tuple[int, bytes]:
        """Status and body of a response that may be no JSON."""
        parts = urlsplit(url)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": parts.path,
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "root_path": "",
            "headers": [header for header in headers if header[0] in _CREDENTIALS],
            "client": None,
            "server": None,
        }
        status = 0
        chunks: list[bytes] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                chunks.append(message.get("body", b""))

        try:
            await self._app(scope, receive, send)
        except Exception:
            # It was logged, and the response is a problem that says so.
            if status == 0:
                raise
        return status, b"".join(chunks)
