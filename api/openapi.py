"""The OpenAPI document: what FastAPI derives, and the problems that follow from a route's kind."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from api import problems
from api.client_versions import CODE as CLIENT_TOO_OLD
from api.problems import Problem
from api.request_limits import CODE as TOO_MANY_REQUESTS
from service.errors import DatabaseUnavailable, Forbidden, InvalidInput, Unauthorized, Unavailable

_REFERENCES = "#/components/schemas/{model}"


# By name, the codes of problems that many routes have.
_SHARED_RESPONSES = {
    "BadRequest": ["bad-request"],
    "BodyTooLarge": ["body-too-large"],
    "ClientTooOld": [CLIENT_TOO_OLD],
    "Forbidden": [Forbidden.code],
    "Internal": ["internal"],
    "TooManyRequests": [TOO_MANY_REQUESTS],
    "Unauthorized": [Unauthorized.code],
    "Unavailable": [DatabaseUnavailable.code, Unavailable.code],
}


def build_document(app: FastAPI) -> dict[str, Any]:
    """Names every status and media type of every route."""
    document = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes
    )
    schemas = document["components"]["schemas"]
    # Of FastAPI's own errors, which `api.problems` replaces.
    for name in ("HTTPValidationError", "ValidationError"):
        del schemas[name]
    problem = Problem.model_json_schema(ref_template=_REFERENCES)
    schemas.update(problem.pop("$defs"), Problem=problem)
    document["components"]["schemas"] = dict(sorted(schemas.items()))
    document["components"]["responses"] = {
        name: problems.describe(*codes) for name, codes in _SHARED_RESPONSES.items()
    }
    for operations in document["paths"].values():
        for operation in operations.values():
            _add_problems(operation)
    return document


def _add_problems(operation: dict[str, Any]) -> None:
    found = operation["responses"]
    body = operation.get("requestBody", {}).get("content", {})
    if "application/json" in body:
        found["400"] = _refer_to("BadRequest")
        found["413"] = _refer_to("BodyTooLarge")
    if _can_be_invalid(operation):
        _add_code(found, "422", InvalidInput.code)
    else:
        found.pop("422", None)
    schemes = {scheme for options in operation.get("security", ()) for scheme in options}
    if schemes:
        found["401"] = _refer_to("Unauthorized")
    if "cookie" in schemes:
        # Of people: their role or token may not suffice.
        found["403"] = _refer_to("Forbidden")
    if schemes != {"token"}:
        # Processes of the cluster, which have no cookie, are not limited.
        found["429"] = _refer_to("TooManyRequests")
    found["426"] = _refer_to("ClientTooOld")
    found["500"] = _refer_to("Internal")
    found["503"] = _refer_to("Unavailable")
    operation["responses"] = dict(sorted(found.items()))


def _refer_to(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/responses/{name}"}


def _can_be_invalid(operation: dict[str, Any]) -> bool:
    """Whether anything but the text of an id is read: an id that nothing can have is not found."""
    return "requestBody" in operation or any(
        parameter["in"] != "path"
        or parameter["schema"].get("type") != "string"
        or "pattern" in parameter["schema"]
        for parameter in operation.get("parameters", ())
    )


def _add_code(responses: dict[str, Any], status: str, code: str) -> None:
    """Adds the code to those that the route names."""
    named = responses.get(status, {}).get("content", {}).get(problems.MEDIA_TYPE)
    codes = [] if named is None else named["schema"]["allOf"][1]["properties"]["code"]["enum"]
    responses[status] = problems.describe(code, *codes)
