"""Ids of requests, and a line in the log for each that changes something or fails."""

import time
import uuid
from http import HTTPStatus

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.request_meter import find_route
from service.log import ids_of_attempt

logger = structlog.get_logger()

_READS = frozenset({"GET", "HEAD", "OPTIONS"})
# Training processes, and the form of a new job, send them every second.
_FREQUENT = frozenset(
    {
        "/v1/attempts/{attempt_id}/reports",
        "/v1/drivers/{driver_id}/heartbeat",
        "/v1/drivers/{driver_id}/trials/next",
        "/v1/jobs:plan",
        "/v1/runners/{runner_id}/next",
    }
)
# By the first part of the path of what a request created.
_CREATED = {"jobs": "job_id", "searches": "search_id", "studies": "study_id"}


class RequestLog:
    """Gives each request an id, which its response, its problem and its log lines contain.

    The line of a request itself has the ids in its path, and of what it created.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        began = time.perf_counter()
        status: int | None = None
        location = ""

        async def send_with_id(message: Message) -> None:
            nonlocal status, location
            if message["type"] == "http.response.start":
                status = int(message["status"])
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                location = headers.get("Location", "")
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            if _is_logged(scope, status):
                _log(scope, status, location, seconds=time.perf_counter() - began)


def _is_logged(scope: Scope, status: int | None) -> bool:
    """Not of what the process requests of itself, which has no client."""
    if scope["client"] is None:
        return False
    if status is not None and status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return True
    is_failed = status is None or status >= HTTPStatus.BAD_REQUEST
    return scope["method"] not in _READS and (is_failed or find_route(scope) not in _FREQUENT)


def _log(scope: Scope, status: int | None, location: str, *, seconds: float) -> None:
    """`status` None: the client disconnected before the response began."""
    actor = scope["state"].get("actor")
    user = {} if actor is None or actor.user is None else {"user": actor.user}
    logger.info(
        "request",
        method=scope["method"],
        route=find_route(scope),
        status=status,
        seconds=round(seconds, 4),
        **user,
        **_find_ids(scope, location),
    )


def _find_ids(scope: Scope, location: str) -> dict[str, str]:
    """Those in the path, and of what was created: of a clone, `created_job_id`."""
    ids = {
        name: str(value)
        for name, value in scope.get("path_params", {}).items()
        if name.endswith("_id")
    }
    if "attempt_id" in ids:
        ids |= ids_of_attempt(ids["attempt_id"])
    _, _, path = location.partition("/v1/")
    kind, _, created = path.partition("/")
    if kind in _CREATED and created and "/" not in created:
        name = _CREATED[kind]
        ids[f"created_{name}" if name in ids else name] = created
    return ids
