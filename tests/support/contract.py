"""Whether responses are as the OpenAPI document says."""

import re
from functools import cache
from typing import Any

import httpx

from api.app import create_app
from service.settings import Settings

DOCUMENT = create_app(Settings()).openapi()


def check(response: httpx.Response) -> None:
    """Status and media type are documented at the route; of a problem, its code is.

    Requests that the document does not have, such as those of a browser, are not checked.
    """
    operation = _find_operation(response.request.method, response.request.url.path)
    if operation is None or response.status_code == httpx.codes.METHOD_NOT_ALLOWED:
        return
    where = f"{response.request.method} {response.request.url.path}"
    documented = operation["responses"].get(str(response.status_code))
    assert documented is not None, f"{where}: status {response.status_code} is not documented"
    documented = _resolve(documented)
    content = documented.get("content")
    media_type = response.headers.get("Content-Type", "").partition(";")[0]
    if content is not None:
        assert media_type in content, f"{where}: {media_type!r} is not documented"
    if media_type == "application/problem+json" and response.request.method != "HEAD":
        assert content is not None, f"{where}: {response.status_code} is no documented problem"
        problem = _read(response)
        codes = content[media_type]["schema"]["allOf"][1]["properties"]["code"]["enum"]
        assert problem["code"] in codes, f"{where}: code {problem['code']} is not documented"


def _find_operation(method: str, path: str) -> dict[str, Any] | None:
    for pattern, operations in _list_paths():
        if pattern.fullmatch(path):
            found: dict[str, Any] | None = operations.get(method.lower())
            return found
    return None


@cache
def _list_paths() -> list[tuple[re.Pattern[str], dict[str, Any]]]:
    """Paths without parameters come first, as `/v1/drivers/{driver_id}/trials/next` does."""
    return [
        (re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))), operations)
        for path, operations in sorted(DOCUMENT["paths"].items(), key=lambda item: "{" in item[0])
    ]


def _resolve(documented: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in documented:
        return documented
    name = documented["$ref"].rsplit("/", 1)[-1]
    found: dict[str, Any] = DOCUMENT["components"]["responses"][name]
    return found


def _read(response: httpx.Response) -> dict[str, Any]:
    response.read()
    found: dict[str, Any] = response.json()
    return found
