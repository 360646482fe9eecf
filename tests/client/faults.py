"""A transport that sends requests to the real API and injects faults into the responses."""

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx

Send = Callable[[httpx.Request], httpx.Response]
Fault = Callable[[httpx.Request, Send], httpx.Response]


class FaultyTransport(httpx.BaseTransport):
    """`faults` happen to the next requests, one each; `lasting_fault` to all others."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []
        self.faults: list[Fault] = []
        self.lasting_fault: Fault | None = None
        self.port: int | None = None  # of the API after a restart
        self._http = httpx.HTTPTransport(verify=False)  # to load certificates takes 50 ms
        self._changed = threading.Condition()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with self._changed:
            self.requests.append(request)
            fault = self.faults.pop(0) if self.faults else self.lasting_fault
            self._changed.notify_all()
        if self.port is not None:
            request.url = request.url.copy_with(port=self.port)
        return fault(request, self._send) if fault is not None else self._send(request)

    def _send(self, request: httpx.Request) -> httpx.Response:
        return self._http.handle_request(request)

    def close(self) -> None:
        """It can be used again: each run of the command closes its client."""
        self._http.close()

    def find(self, method: str, path: str) -> list[httpx.Request]:
        return [
            request
            for request in self.requests
            if (request.method, request.url.raw_path.decode().partition("?")[0]) == (method, path)
        ]

    def wait_for_stream(self) -> None:
        """Returns when a stream of events was requested."""

        def is_requested() -> bool:
            return any("event-stream" in request.headers["Accept"] for request in self.requests)

        with self._changed:
            assert self._changed.wait_for(is_requested, timeout=10)


def body_of(request: httpx.Request) -> Any:
    return json.loads(request.content)


def refuse_connection(request: httpx.Request, send: Send) -> httpx.Response:
    del send
    raise httpx.ConnectError("connection refused", request=request)


def respond(status: int, content: bytes, **headers: str) -> Fault:
    """A response that is not from the API."""

    def fault(request: httpx.Request, send: Send) -> httpx.Response:
        del request, send
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.Response(status, headers=named, content=content)

    return fault


def set_headers(**headers: str) -> Fault:
    """As a proxy that changes the headers of a request."""

    def fault(request: httpx.Request, send: Send) -> httpx.Response:
        request.headers.update({name.replace("_", "-"): text for name, text in headers.items()})
        return send(request)

    return fault


def unavailable(**headers: str) -> Fault:
    problem = {"code": "database-unavailable", "detail": "no database", "request_id": "r-1"}
    return respond(503, json.dumps(problem).encode(), **headers)


def too_many(seconds: int | None = 0) -> Fault:
    """None: without a time to wait."""
    problem = {"code": "too-many-requests", "detail": "too many", "request_id": "r-1"}
    headers = {} if seconds is None else {"Retry_After": str(seconds)}
    return respond(429, json.dumps(problem).encode(), **headers)


def lose_response(request: httpx.Request, send: Send) -> httpx.Response:
    """The API carries out the request, and the connection breaks before its response."""
    send(request).read()
    raise httpx.ReadError("connection reset", request=request)


def add_query(**params: str) -> Fault:
    def fault(request: httpx.Request, send: Send) -> httpx.Response:
        request.url = request.url.copy_merge_params(params)
        return send(request)

    return fault


def change_json(change: Callable[[dict[str, Any]], Any]) -> Fault:
    """`change` edits the JSON object of the response in place."""

    def fault(request: httpx.Request, send: Send) -> httpx.Response:
        response = send(request)
        document = json.loads(response.read())
        change(document)
        return httpx.Response(response.status_code, json=document)

    return fault


def change_download(*, content: bytes | None = None, **headers: str) -> Fault:
    """Other bytes, or other headers, than those of the API."""

    def fault(request: httpx.Request, send: Send) -> httpx.Response:
        response = send(request)
        received = response.read()
        response.headers.update({name.replace("_", "-"): text for name, text in headers.items()})
        stream = _Chunks([received if content is None else content])
        return httpx.Response(response.status_code, headers=response.headers, stream=stream)

    return fault


def break_download(request: httpx.Request, send: Send) -> httpx.Response:
    """The connection breaks after half of the bytes."""
    response = send(request)
    content = response.read()
    stream = _Chunks([content[: len(content) // 2], httpx.ReadError("connection reset")])
    return httpx.Response(response.status_code, headers=response.headers, stream=stream)


def break_stream(after: int) -> Fault:
    """The connection breaks in the middle of the event that follows `after` numbered events."""

    def fault(request: httpx.Request, send: Send) -> httpx.Response:
        response = send(request)
        assert isinstance(response.stream, httpx.SyncByteStream)
        stream = _BreakingEvents(response.stream, after)
        return httpx.Response(response.status_code, headers=response.headers, stream=stream)

    return fault


class _Chunks(httpx.SyncByteStream):
    def __init__(self, chunks: list[bytes | Exception]) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk


class _BreakingEvents(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, after: int) -> None:
        self._stream = stream
        self._after = after

    def __iter__(self) -> Iterator[bytes]:
        remaining, received = self._after, b""
        for chunk in self._stream:
            received += chunk
            while b"\n\n" in received:
                event, _, received = received.partition(b"\n\n")
                if b"id: " in event:
                    if remaining == 0:
                        yield event[: len(event) // 2]
                        raise httpx.ReadError("connection reset")
                    remaining -= 1
                yield event + b"\n\n"

    def close(self) -> None:
        self._stream.close()
