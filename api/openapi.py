"""The OpenAPI document: FastAPI's, with the problems that each route can answer."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, Field

from api import problems

_HAS_BODY = {"post", "put", "patch"}


class ProblemField(BaseModel):
    pointer: str = Field(description="JSON pointer (RFC 6901) into the request")
    message: str


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    code: str = Field(description="stable: for programs")
    detail: str = Field(description="for people")
    request_id: str | None = Field(description="as in the header X-Request-Id")
    errors: list[ProblemField] = Field([], description="what is wrong with the request's fields")


def install(app: FastAPI) -> None:
    make_document = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            _add_problems(make_document())
        assert app.openapi_schema is not None
        return app.openapi_schema

    # FastAPI's documented way to change the document.
    app.openapi = openapi  # type: ignore[method-assign]


def _add_problems(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= problem.pop("$defs")
    schemas["Problem"] = problem
    responses = document["components"].setdefault("responses", {})
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status in _list_statuses(path, method, operation):
                responses[status.name] = _describe(status)
                reference = {"$ref": f"#/components/responses/{status.name}"}
                operation["responses"][str(status.value)] = reference


def _describe(status: HTTPStatus) -> dict[str, Any]:
    codes = ", ".join(f"`{code}`" for code in problems.codes_of(status))
    return {
        "description": f"{status.phrase}: {codes}" if codes else status.phrase,
        "content": {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
        },
    }


def _list_statuses(path: str, method: str, operation: dict[str, Any]) -> list[HTTPStatus]:
    found = [HTTPStatus.UPGRADE_REQUIRED, HTTPStatus.SERVICE_UNAVAILABLE]
    is_change = method not in {"get", "head"}
    if "security" in operation or path.endswith("/session"):
        found.append(HTTPStatus.UNAUTHORIZED)
    if is_change:
        # A browser that is signed in must show that the request is its page's.
        found += [HTTPStatus.FORBIDDEN, HTTPStatus.CONFLICT]
    if "{" in path or "parameters" in operation or is_change:
        found.append(HTTPStatus.NOT_FOUND)
    if method in _HAS_BODY:
        found.append(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    if "parameters" in operation or "requestBody" in operation:
        found.append(HTTPStatus.UNPROCESSABLE_ENTITY)
    return found
