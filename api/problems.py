"""Errors as application/problem+json (RFC 9457), each with a stable code and the request's id."""

import json
from http import HTTPStatus
from typing import Annotated, Any, Literal

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import errors
from service.errors import (
    DatabaseUnavailable,
    FieldError,
    InputLocation,
    InvalidInput,
    ResnetdError,
)
from service.specs import validation

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"

_STATUS: dict[type[ResnetdError], HTTPStatus] = {
    errors.InvalidInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.IdempotencyMismatch: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.CorruptArtifact: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Unauthorized: HTTPStatus.UNAUTHORIZED,
    errors.Forbidden: HTTPStatus.FORBIDDEN,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}


# Of RFC 9110; those of HTTPStatus differ between versions of Python.
_TITLES = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "Content Too Large",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Unprocessable Content",
}
# Of errors that Starlette raises.
_CODES = {
    HTTPStatus.BAD_REQUEST: "bad-request",
    HTTPStatus.NOT_FOUND: "not-found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method-not-allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "body-too-large",
}


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


class FieldProblem(BaseModel):
    location: Annotated[InputLocation, Field(description="the part of the request")]
    pointer: Annotated[
        str, Field(description="JSON pointer (RFC 6901) into that part; `/NAME` of a parameter")
    ]
    message: str


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: Literal["about:blank"]
    title: Annotated[str, Field(description="of the status")]
    status: int
    code: Annotated[str, Field(description="stable name of the error")]
    detail: Annotated[str, Field(description="what is wrong, for a reader")]
    request_id: Annotated[str, Field(description="`X-Request-Id`, which the server's log has too")]
    errors: Annotated[list[FieldProblem], Field(description="invalid fields")] = []


def responses(*errors: type[ResnetdError]) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI document says of a route that raises these errors.

    `api.openapi` adds the errors that follow from the rest of the route.
    """
    codes: dict[HTTPStatus, list[str]] = {}
    for error in errors:
        codes.setdefault(_find_status(error), []).append(error.code)
    return {status.value: describe(*found) for status, found in codes.items()}


def describe(*codes: str) -> dict[str, Any]:
    """The OpenAPI response of problems with these codes."""
    schema = {
        "allOf": [
            {"$ref": "#/components/schemas/Problem"},
            {"properties": {"code": {"enum": sorted(codes)}}},
        ]
    }
    description = ", ".join(f"`{code}`" for code in sorted(codes))
    return {"description": description, "content": {MEDIA_TYPE: {"schema": schema}}}


class LargeBodyProblems:
    """Replaces the plain text with which Starlette's limit of bodies answers.

    It is around that limit, which is around all middleware that an application can add.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_replaced = False

        async def send_problem(message: Message) -> None:
            nonlocal is_replaced
            if is_replaced:
                return
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            is_replaced = (
                message["type"] == "http.response.start"
                and message["status"] == status
                and Headers(raw=message["headers"]).get("Content-Type") != MEDIA_TYPE
            )
            if not is_replaced:
                await send(message)
                return
            code = _CODES[status]
            response = make_problem(
                Request(scope), status, code=code, detail="the body is too large"
            )
            await response(scope, receive, send)

        await self._app(scope, receive, send_problem)


def install(app: FastAPI) -> None:
    app.add_exception_handler(ResnetdError, _handle_resnetd_error)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(HTTPException, _handle_http_error)
    app.add_exception_handler(ClientDisconnect, _handle_disconnect)
    app.add_exception_handler(Exception, _handle_unexpected_error)


def make_problem(
    request: Request,
    status: HTTPStatus,
    *,
    code: str,
    detail: str,
    field_errors: tuple[FieldError, ...] = (),
    retry_after_seconds: int | None = None,
) -> Response:
    content = {
        "type": "about:blank",
        "title": _TITLES.get(status, status.phrase),
        "status": status.value,
        "code": code,
        "detail": detail,
        "request_id": getattr(request.state, "request_id", None),
    }
    if field_errors:
        content["errors"] = [
            {"location": field.location, "pointer": field.pointer, "message": field.message}
            for field in field_errors
        ]
    headers = {}
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if retry_after_seconds is not None:
        headers["Retry-After"] = str(retry_after_seconds)
    # A message may quote a lone surrogate of the request, which UTF-8 cannot encode.
    body = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
    return Response(body, status_code=status, headers=headers, media_type=MEDIA_TYPE)


def _handle_resnetd_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ResnetdError)
    detail = str(error)
    if isinstance(error, DatabaseUnavailable):
        # The driver's message has host, user and path; who reads this may have no token.
        log.warning("database unavailable", path=request.url.path, error=detail)
        detail = "the database is not available; the server's log has the request id"
    status = _find_status(type(error))
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        return _handle_unexpected_error(request, error)
    field_errors = error.field_errors if isinstance(error, InvalidInput) else ()
    return make_problem(
        request,
        status,
        code=error.code,
        detail=detail,
        field_errors=field_errors,
        retry_after_seconds=1 if status is HTTPStatus.SERVICE_UNAVAILABLE else None,
    )


def _find_status(error: type[ResnetdError]) -> HTTPStatus:
    """Of the nearest class that has one."""
    found = (_STATUS[kind] for kind in error.__mro__ if kind in _STATUS)
    return next(found, HTTPStatus.INTERNAL_SERVER_ERROR)


def _handle_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if any(entry["type"] == "json_invalid" for entry in error.errors()):
        return make_problem(
            request,
            HTTPStatus.UNPROCESSABLE_ENTITY,
            code=InvalidInput.code,
            detail=f"the body is not JSON: {error.errors()[0]['ctx']['error']}",
        )
    field_errors = validation.to_field_errors(error.errors(), is_request=True)
    return make_problem(
        request,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        code=InvalidInput.code,
        detail="the request is not valid",
        field_errors=field_errors,
    )


def _handle_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    code = _CODES.get(status, f"http-{status.value}")
    detail, headers = str(error.detail), dict(error.headers or {})
    if status is HTTPStatus.NOT_FOUND:
        detail = f"there is nothing at {request.url.path}"
    elif status is HTTPStatus.METHOD_NOT_ALLOWED:
        # Starlette names the methods of the first route only.
        headers["Allow"] = ", ".join(_list_methods(request))
        detail = f"{request.url.path} does not allow {request.method}, but {headers['Allow']}"
    response = make_problem(request, status, code=code, detail=detail)
    response.headers.update(headers)
    return response


def _list_methods(request: Request) -> list[str]:
    """Those of all routes with the request's path."""
    return [
        method
        for method in _METHODS
        if any(
            route.matches(dict(request.scope) | {"method": method})[0] is Match.FULL
            for route in request.app.router.routes
        )
    ]


def _handle_disconnect(request: Request, error: Exception) -> Response:
    """The client disconnected before its body was complete, so the response is not read."""
    del error
    log.info("client disconnected", path=request.url.path)
    return Response(status_code=HTTPStatus.BAD_REQUEST)


def _handle_unexpected_error(request: Request, error: Exception) -> Response:
    log.error("request failed", path=request.url.path, exc_info=error)
    return make_problem(
        request,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        code="internal",
        detail="the server failed; its log has the request id",
    )
