"""The HTTP server. When it stops, other API processes take over its clients first."""

import asyncio
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send


class GracefulServer(uvicorn.Server):
    """After SIGTERM or SIGINT it still answers for `drain_seconds`; another SIGINT ends that.

    Meanwhile the health of the process is 503, which load balancers read, streams and long polls
    end, and each response closes its connection. Requests that still run get `grace_seconds`.
    """

    def __init__(
        self, app: FastAPI, *, drain_seconds: float, grace_seconds: int, **options: Any
    ) -> None:
        super().__init__(
            uvicorn.Config(
                self._closing_connections,
                interface="asgi3",
                log_config=None,
                access_log=False,
                timeout_graceful_shutdown=grace_seconds,
                **options,
            )
        )
        self._app = app
        self.drain_seconds = drain_seconds
        self._stopping_since: float | None = None

    async def on_tick(self, counter: int) -> bool:
        if not await super().on_tick(counter):
            return False
        now = asyncio.get_running_loop().time()
        if self._stopping_since is None:
            self._stopping_since = now
            self._app.state.services.changes.end_waits()
        return self.force_exit or now >= self._stopping_since + self.drain_seconds

    async def _closing_connections(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start" and self._stopping_since is not None:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, send_and_close)
