"""Runs the synchronous client in an event loop: what it waits for is awaited there.

`run` starts a function in a greenlet. Where the function would block, in a request or a pause, it
calls `wait`, which passes the awaitable to `run` and continues with its result. A task that is
cancelled gets its exception out of `wait`, so that `with` and `finally` of the function work.
"""

import contextvars
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeVar, get_origin

import anyio
import greenlet
import httpx

P = ParamSpec("P")
T = TypeVar("T")

# It shows a screen with threads of its own. The asynchronous client closes by itself.
LEFT_OUT = frozenset({"follow", "close"})
_END: Any = object()


class _OutsideOfLoop(httpx.TransportError):
    """A record that shows itself reads no more; see `ApiClient.read_optional`."""


class _Worker(greenlet.greenlet):
    """Runs a function for `run`."""


async def run(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in whose place `wait` may wait."""
    worker = _Worker(function)
    worker.gr_context = contextvars.copy_context()
    step: Any = worker.switch(*args, **kwargs)
    while not worker.dead:
        try:
            result = await step
        except BaseException as error:  # noqa: BLE001 - the function gets it, cancellation too
            step = worker.throw(error)
        else:
            step = worker.switch(result)
    finished: T = step
    return finished


async def iterate(iterator: Iterator[T]) -> AsyncGenerator[T, None]:
    """The items. A stream that is not read to its end is closed, also by a cancellation."""
    try:
        while (item := await run(next, iterator, _END)) is not _END:
            yield item
    finally:
        if inspect.isgenerator(iterator):
            with anyio.CancelScope(shield=True):
                await run(iterator.close)


def wait(function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of an asynchronous function, in what `run` has called."""
    worker = greenlet.getcurrent()
    if not isinstance(worker, _Worker):
        raise _OutsideOfLoop("an asynchronous client makes requests in its methods only")
    assert worker.parent is not None
    result: T = worker.parent.switch(function(*args, **kwargs))
    return result


def sleep(seconds: float) -> None:
    wait(anyio.sleep, seconds)


class BridgeTransport(httpx.BaseTransport):
    """Makes the requests of a synchronous client with an asynchronous one."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = wait(self._http.send, request, stream=True)
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_Body(response),
            extensions=response.extensions,
        )


class _Body(httpx.SyncByteStream):
    """The bytes of an asynchronous response, still encoded."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        # Not aiter_raw(): responses of a mock count as read.
        assert isinstance(self._response.stream, httpx.AsyncByteStream)
        chunks = aiter(self._response.stream)
        while (chunk := wait(anext, chunks, None)) is not None:
            yield chunk

    def close(self) -> None:
        # The garbage collector closes outside of the loop; the client then closes the connection.
        if isinstance(greenlet.getcurrent(), _Worker):
            wait(self._response.aclose)


def mirror(kind: type) -> type[Any]:
    """A class with the public methods of `kind` as asynchronous ones; it wraps an object of it."""
    methods = {
        name: _make_asynchronous(function)
        for name, function in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") and name not in LEFT_OUT
    }
    return type(f"Async{kind.__name__}", (_Mirror,), {"__doc__": kind.__doc__, **methods})


class _Mirror:
    def __init__(self, mirrored: Any) -> None:
        self._mirrored = mirrored


def _make_asynchronous(function: Callable[..., Any]) -> Callable[..., Any]:
    if get_origin(inspect.signature(function).return_annotation) is Iterator:

        @wraps(function)
        def start(self: _Mirror, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            return iterate(function(self._mirrored, *args, **kwargs))

        return start

    @wraps(function)
    async def call(self: _Mirror, *args: Any, **kwargs: Any) -> Any:
        return await run(function, self._mirrored, *args, **kwargs)

    return call
