"""Errors as application/problem+json (RFC 9457), each with a stable code and the request's id."""

import json
from collections.abc import Iterator
from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service import errors
from service.errors import DatabaseUnavailable, FieldError, InvalidInput, ResnetdError
from service.specs import validation

log = structlog.get_logger()

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


def codes_of(status: HTTPStatus) -> list[str]:
    """The codes of the errors that are answered with this status."""
    kinds = [kind for kind, answered in _STATUS.items() if answered is status]
    return sorted({kind.code for parent in kinds for kind in _with_subclasses(parent)})


def _with_subclasses(kind: type[ResnetdError]) -> Iterator[type[ResnetdError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _with_subclasses(child)


def install(app: FastAPI) -> None:
    app.add_exception_handler(ResnetdError, _handle_resnetd_error)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(HTTPException, _handle_http_error)
    app.add_exception_handler(ClientDisconnect, _handle_disconnect)
    app.add_exception_handler(Exception, _handle_unexpected_error)


def problem(
    request: Request,
    status: HTTPStatus,
    *,
    code: str,
    detail: str,
    field_errors: tuple[FieldError, ...] = (),
) -> Response:
    content = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "code": code,
        "detail": detail,
        "request_id": getattr(request.state, "request_id", None),
    }
    if field_errors:
        content["errors"] = [
            {"pointer": field.pointer, "message": field.message} for field in field_errors
        ]
    headers = {}
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "1"
    # A message may quote a lone surrogate of the request, which UTF-8 cannot encode.
    body = json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")
    return Response(
        body, status_code=status, headers=headers, media_type="application/problem+json"
    )


def _handle_resnetd_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ResnetdError)
    detail = str(error)
    if isinstance(error, DatabaseUnavailable):
        # The driver's message has host, user and path; who reads this may have no token.
        log.warning("database unavailable", path=request.url.path, error=detail)
        detail = "the database is not available; the server's log has the request id"
    for kind in type(error).__mro__:
        if kind in _STATUS:
            field_errors = error.field_errors if isinstance(error, InvalidInput) else ()
            return problem(
                request,
                _STATUS[kind],
                code=error.code,
                detail=detail,
                field_errors=field_errors,
            )
    return _handle_unexpected_error(request, error)


def _handle_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    if any(finding["type"] == "json_invalid" for finding in error.errors()):
        return problem(
            request,
            HTTPStatus.UNPROCESSABLE_ENTITY,
            code=InvalidInput.code,
            detail=f"the body is not JSON: {error.errors()[0]['ctx']['error']}",
        )
    field_errors = validation.to_field_errors(error.errors(), skip=1)
    return problem(
        request,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        code=InvalidInput.code,
        detail="the request is not valid",
        field_errors=field_errors,
    )


def _handle_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    code = status.phrase.lower().replace(" ", "-")
    response = problem(request, status, code=code, detail=str(error.detail))
    response.headers.update(error.headers or {})
    return response


def _handle_disconnect(request: Request, error: Exception) -> Response:
    """The client went away before its body was complete, so that no one reads the response."""
    del error
    log.info("client disconnected", path=request.url.path)
    return Response(status_code=HTTPStatus.BAD_REQUEST)


def _handle_unexpected_error(request: Request, error: Exception) -> Response:
    log.error("request failed", path=request.url.path, exc_info=error)
    return problem(
        request,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        code="internal",
        detail="the server failed; its log has the request id",
    )
