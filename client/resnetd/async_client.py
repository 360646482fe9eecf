"""`AsyncClient`: the client for programs with an event loop.

Its methods are those of `Client`, run by `bridge`. Type checkers read `async_client.pyi`, which
`make docs` makes from `Client`.
"""

import inspect
from importlib.util import find_spec
from typing import Self

import httpx

from resnetd.api_client import DIRECT_MOUNTS, LIMITS
from resnetd.client import Client
from resnetd.resources import Resource
from resnetd.retry import Retry


class AsyncClient:
    """A connection to one service, with the methods of `Client` as coroutines.

    Methods that return an iterator there return an asynchronous one here. Cancelling a task ends
    its request. Use it as an asynchronous context manager, or close it. It needs the extra `async`.

    Args:
        url, token, retry, timeout_seconds: as in `Client`.
        transport: an `httpx.AsyncBaseTransport` that makes the requests, for tests and proxies.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        retry: Retry | None = None,
        timeout_seconds: float = 30.0,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        if find_spec("greenlet") is None:
            raise ImportError(
                "AsyncClient needs the package greenlet, which is not installed: "
                "pip install 'resnetd[async]'"
            )
        from resnetd import bridge  # noqa: PLC0415 - it needs the extra

        self._http = httpx.AsyncClient(transport=transport, mounts=DIRECT_MOUNTS, limits=LIMITS)
        client = Client(
            url,
            token,
            retry=retry,
            timeout_seconds=timeout_seconds,
            transport=bridge.BridgeTransport(self._http),
        )
        client._api.sleep = bridge.sleep  # noqa: SLF001
        self.url = client.url
        methods = bridge.mirror(Client)(client)
        for name, method in inspect.getmembers(methods, inspect.ismethod):
            if not name.startswith("_"):
                setattr(self, name, method)
        for name, resource in vars(client).items():
            if isinstance(resource, Resource):
                setattr(self, name, bridge.mirror(type(resource))(resource))
        self.submit = vars(self)["jobs"].submit

    def __repr__(self) -> str:
        return f"AsyncClient({self.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; streams that are open end."""
        await self._http.aclose()
