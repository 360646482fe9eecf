"""Counts and times the requests to this process, for its Prometheus metrics."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Of requests that no route answers, such as refused ones and files of the dashboard.
NO_ROUTE = "(none)"
# A client may send any word.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER_METHOD = "(other)"
# As of proxies: the client disconnected before the response began.
_DISCONNECTED = 499
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)


class RequestMeter:
    """Of an API process. It has no more series than there are routes, methods and statuses."""

    def __init__(self, *, get_time: Callable[[], float] = time.perf_counter) -> None:
        self.registry = CollectorRegistry()
        self._get_time = get_time
        self._requests = Counter(
            "resnetd_api_requests",
            "Requests to this process whose response has begun",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "resnetd_api_request_seconds",
            "Time from a request to the first byte of its response",
            ["method", "route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._open = Gauge(
            "resnetd_api_open_requests",
            "Requests to this process that have not ended, streams included",
            registry=self.registry,
        )

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """Requests that the process sends to itself, which have no client, are not counted."""

        async def call(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["client"] is None:
                await app(scope, receive, send)
                return
            began = self._get_time()
            is_counted = False

            async def send_and_count(message: Message) -> None:
                nonlocal is_counted
                if message["type"] == "http.response.start":
                    is_counted = True
                    self._count(scope, message["status"], self._get_time() - began)
                await send(message)

            self._open.inc()
            try:
                await app(scope, receive, send_and_count)
            finally:
                self._open.dec()
                if not is_counted:
                    self._count(scope, _DISCONNECTED, self._get_time() - began)

        return call

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        """The path itself is no label: ids would make each request a series of its own."""
        method = scope["method"] if scope["method"] in _METHODS else _OTHER_METHOD
        route = find_route(scope) or NO_ROUTE
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)


def find_route(scope: Scope) -> str | None:
    """The template of the path, which routing has added; None where no route fits."""
    return getattr(scope.get("route"), "path", None)
