"""Limits of requests and of open streams: by token, by address for what has no valid token.

Each API process counts for itself, in its memory. Processes of the cluster are not limited: a
training must not wait for its reports.
"""

import hashlib
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from ipaddress import IPv6Address
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.requests import Request, cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems
from api.auth import SIGN_IN_COOKIE
from service.settings import Settings
from service.text import count_of

K = TypeVar("K")
V = TypeVar("V")

CODE = "too-many-requests"
# Requests that were not made in this time may come at once.
BURST_SECONDS = 10.0
# Nothing says when another stream ends.
_STREAM_RETRY_SECONDS = 5
_EVENT_STREAM = "text/event-stream"
_CLUSTER_PATHS = ("/v1/attempts/", "/v1/runners/", "/v1/drivers/")
# Bounds the memory. The key that was used longest ago is forgotten first.
_MAX_KEYS = 10_000


class RateLimiter:
    """The generic cell rate algorithm: `per_second` requests of a key on average; 0: no limit."""

    def __init__(self, per_second: float, *, get_time: Callable[[], float]) -> None:
        self._interval = 1 / per_second if per_second else 0.0
        self._get_time = get_time
        # Of each key, the time until which its requests last at this rate.
        self._covered_until: OrderedDict[str, float] = OrderedDict()

    def take(self, key: str) -> float:
        """0.0 where the request is within the limit, or else the seconds until one is."""
        if not self._interval:
            return 0.0
        now = self._get_time()
        covered_until = max(now, self._covered_until.get(key, now)) + self._interval
        wait = covered_until - now - max(BURST_SECONDS, self._interval)
        if wait > 0:
            return wait
        _remember(self._covered_until, key, covered_until)
        return 0.0


class RequestLimits:
    """Answers 429 with `Retry-After` instead of the application.

    A credential counts for its token once it was accepted. Until then its requests count for their
    address, as those without one do: who guesses tokens has one budget.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, *, get_time: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._settings = settings
        self._tokens = RateLimiter(settings.requests_per_second, get_time=get_time)
        self._addresses = RateLimiter(settings.anonymous_requests_per_second, get_time=get_time)
        self._streams: Counter[str] = Counter()
        # By the digest of a credential that was accepted, the id of its token.
        self._token_ids: OrderedDict[bytes, str] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # What the process requests of itself has no client (api.shared_reads).
        if (
            scope["type"] != "http"
            or scope["client"] is None
            or scope["path"].startswith(_CLUSTER_PATHS)
        ):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        credential = _read_credential(headers)
        token_id = None if credential is None else self._token_ids.get(credential)
        key = token_id or _find_network(scope["client"][0])
        refusal = self._find_excess(key, is_token=token_id is not None)
        is_stream = scope["path"] == "/v1/stream" or _EVENT_STREAM in headers.get("Accept", "")
        if refusal is None and is_stream:
            refusal = self._find_excess_stream(key)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        self._streams[key] += is_stream
        try:
            await self._app(scope, receive, self._learn(scope, credential, send))
        finally:
            self._streams[key] -= is_stream
            if not self._streams[key]:
                del self._streams[key]

    def _find_excess(self, key: str, *, is_token: bool) -> ASGIApp | None:
        """The response to a request above the limit of its token or address."""
        if is_token:
            wait, limit = self._tokens.take(key), self._settings.requests_per_second
            sender = "with one token"
        else:
            wait, limit = self._addresses.take(key), self._settings.anonymous_requests_per_second
            sender = "without a valid token from one address"
        if not wait:
            return None
        return _refuse(f"more than {limit:g} requests per second {sender}", math.ceil(wait))

    def _find_excess_stream(self, key: str) -> ASGIApp | None:
        limit = self._settings.max_streams
        if not limit or self._streams[key] < limit:
            return None
        return _refuse(f"more than {count_of(limit, 'stream')} open", _STREAM_RETRY_SECONDS)

    def _learn(self, scope: Scope, credential: bytes | None, send: Send) -> Send:
        """Remembers, when the response begins, whose the credential is, or that it has ended."""
        if credential is None:
            return send

        async def send_and_learn(message: Message) -> None:
            if message["type"] == "http.response.start":
                token_id = scope["state"].get("token_id")
                if token_id is not None:
                    _remember(self._token_ids, credential, token_id)
                elif message["status"] == HTTPStatus.UNAUTHORIZED:
                    self._token_ids.pop(credential, None)
            await send(message)

        return send_and_learn


def _refuse(problem: str, seconds: int) -> ASGIApp:
    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        response = problems.make_problem(
            Request(scope),
            HTTPStatus.TOO_MANY_REQUESTS,
            code=CODE,
            detail=f"{problem}; try again in {seconds} s",
            retry_after_seconds=seconds,
        )
        await response(scope, receive, send)

    return respond


def _remember(known: OrderedDict[K, V], key: K, value: V) -> None:
    known[key] = value
    known.move_to_end(key)
    if len(known) > _MAX_KEYS:
        known.popitem(last=False)


def _read_credential(headers: Headers) -> bytes | None:
    """A digest of the token, or of the sign-in, that the request carries."""
    sent = headers.get("Authorization")
    if sent is None and SIGN_IN_COOKIE in (cookies := headers.get("Cookie", "")):
        sent = cookie_parser(cookies).get(SIGN_IN_COOKIE)
    return None if sent is None else hashlib.sha256(sent.encode()).digest()


def _find_network(address: str) -> str:
    """The address; of IPv6 the network of 64 bits, all of which one sender may have."""
    with suppress(ValueError):  # a proxy may send anything
        return IPv6Address(address).packed[:8].hex(":")
    return address
