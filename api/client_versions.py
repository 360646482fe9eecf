"""Versions of clients: responses name the server's version, and too old clients get 426."""

import re
from http import HTTPStatus
from importlib import metadata

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import problems

VERSION = metadata.version("resnetd-server")
# Of the routes below /v1.
API_VERSION = "1"
# Raised by a change that breaks older clients. Added fields do not: clients ignore unknown ones.
OLDEST_CLIENT = (0, 1)
CODE = "client-too-old"
_CLIENT = re.compile(r"resnetd-client/([0-9]{1,9})\.([0-9]{1,9})")


class ClientVersionCheck:
    """Adds `X-Resnetd-Version` to each response; 426 for a client that is too old."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_version(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Resnetd-Version"] = VERSION
            await send(message)

        client = _CLIENT.match(Headers(scope=scope).get("User-Agent", ""))
        response: ASGIApp = self._app
        if client is not None and (int(client[1]), int(client[2])) < OLDEST_CLIENT:
            response = problems.make_problem(
                Request(scope),
                HTTPStatus.UPGRADE_REQUIRED,
                code=CODE,
                detail=f"{client[0]} is too old for this server ({VERSION}), which needs "
                f"{'.'.join(map(str, OLDEST_CLIENT))} or newer; run pip install --upgrade resnetd",
            )
        await response(scope, receive, send_with_version)
