"""Every text that a request can contain, in every encoding: refused or stored, never a failure.

The fields are those of the OpenAPI document, so that a new one is tested without a change here.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx

from tests.support.api import Api
from tests.support.contract import DOCUMENT
from tests.support.rows import Rows, upload_for

TEXTS = {
    "empty": "",
    "NUL": "a\x00b",
    "a control character": "a\x1b[2Jb",
    "a C1 control character": "a\x9bb",
    "a line feed": "a\nb",
    "a lone surrogate": "a\ud800",
    "characters of 4 bytes": "\U0001d49c\U0001f600",
    "100 characters of 3 bytes": "\u6f22" * 100,
    "10,000 characters": "a" * 10_000,
    "10,000 digits": "9" * 10_000,
}
# Texts that every field has, since a check forgets them most easily: PostgreSQL stores no NUL and
# indexes no long text; no database stores a surrogate; Python reads no integer of 10,000 digits.
TEXTS_OF_ALL_FIELDS = {
    "sqlite": ("a lone surrogate", "10,000 digits"),
    "postgresql": ("NUL", "10,000 characters"),
}
# Headers that a client may send with any request, beside the token's; no header can have all texts.
HEADERS = ("Accept", "Content-Type", "If-Range", "Range", "User-Agent")
PREFIXES = {"User-Agent": "resnetd-client/", "Range": "bytes=", "Authorization": "Bearer "}
SCHEMAS = DOCUMENT["components"]["schemas"]


class Operation(NamedTuple):
    method: str
    path: str

    @property
    def definition(self) -> dict[str, Any]:
        found: dict[str, Any] = DOCUMENT["paths"][self.path][self.method]
        return found

    @property
    def body_schema(self) -> dict[str, Any] | None:
        content = self.definition.get("requestBody", {}).get("content", {})
        found: dict[str, Any] | None = content.get("application/json", {}).get("schema")
        return found

    def list_parameters(self, place: str) -> list[dict[str, Any]]:
        return [item for item in self.definition.get("parameters", ()) if item["in"] == place]


class Request(NamedTuple):
    """`field`: the field that has the text; `kind`: its place in the request and its schema."""

    field: str
    kind: str
    path: dict[str, Any]
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


# A route that deletes would leave nothing for the others.
OPERATIONS = sorted(
    (
        Operation(method, path)
        for path, operations in DOCUMENT["paths"].items()
        for method in operations
    ),
    key=lambda operation: operation.method == "delete",
)
# Of each method; all operations of a router treat HEADERS alike.
FIRST_OF_ROUTERS = {
    (operation.method, *operation.definition["tags"]): operation
    for operation in reversed(OPERATIONS)
}.values()


def test_no_text_in_any_field_causes_an_internal_error(any_api: Api) -> None:
    """On SQLite, the first field of each kind has all texts: what it accepts is in its schema."""
    rows = Rows(any_api)
    is_sqlite = any_api.core.database.is_sqlite
    of_all_fields = TEXTS_OF_ALL_FIELDS["sqlite" if is_sqlite else "postgresql"]
    tried = set()
    failures = []
    for operation in OPERATIONS:
        valid = _make_valid(operation, rows)
        for name, text in TEXTS.items():
            for request in _list_requests(operation, valid, text):
                if name not in of_all_fields and (not is_sqlite or (request.kind, name) in tried):
                    continue
                tried.add((request.kind, name))
                try:
                    answer = _send(any_api, operation, request, rows)
                except httpx.LocalProtocolError:  # no header can contain the text
                    continue
                if answer.is_server_error:
                    where = f"{operation.method} {operation.path} {request.field}"
                    failures.append((where, name, answer.status_code))
    assert failures == []


def _make_valid(operation: Operation, rows: Rows) -> Request:
    headers = {}
    if any(item["name"] == "x-content-sha256" for item in operation.list_parameters("header")):
        headers["X-Content-SHA256"] = hashlib.sha256(upload_for(operation.path)).hexdigest()
    query = {
        item["name"]: "birds" for item in operation.list_parameters("query") if item["required"]
    }
    schema = operation.body_schema
    body = None if schema is None else _sample(schema)
    return Request("", "", rows.in_path, query, headers, body)


def _list_requests(operation: Operation, valid: Request, text: str) -> Iterator[Request]:
    """Requests that have the text in one field and are valid in all others."""
    for item in operation.list_parameters("path"):
        name, kind = item["name"], _describe_kind("path", item["schema"])
        yield valid._replace(field=name, kind=kind, path={name: text})
    for item in operation.list_parameters("query"):
        name, kind = item["name"], _describe_kind("query", item["schema"])
        yield valid._replace(field=name, kind=kind, path={}, query=valid.query | {name: text})
    headers: list[tuple[str, ...]] = [
        (item["name"],) for item in operation.list_parameters("header")
    ]
    if operation in FIRST_OF_ROUTERS:
        headers += [HEADERS, ("Authorization",)]
    for names in headers:
        values = {name: PREFIXES.get(name, "") + text for name in names}
        # Which routes read the headers that all have, no schema says.
        kind = f"{names} of {operation.method} {operation.definition['tags']}"
        field = ", ".join(names)
        yield valid._replace(field=field, kind=kind, path={}, headers=valid.headers | values)
    if operation.body_schema is not None:
        for pointer, schema, body in _insert(operation.body_schema, text):
            kind = _describe_kind("body", schema)
            yield valid._replace(field=pointer, kind=kind, path={}, body=body)


def _describe_kind(place: str, schema: dict[str, Any]) -> str:
    said = {name: value for name, value in schema.items() if name not in {"title", "description"}}
    return f"{place} {json.dumps(said, sort_keys=True)}"


def _send(api: Api, operation: Operation, request: Request, rows: Rows) -> httpx.Response:
    path = operation.path
    for name, value in (rows.in_path | request.path).items():
        path = path.replace(f"{{{name}}}", _quote(str(value)))
    # An empty segment is no path of the route, and a dot would be removed.
    query = "&".join(f"{name}={_quote(value)}" for name, value in request.query.items())
    content = upload_for(operation.path)
    headers = {name: _encode(value) for name, value in request.headers.items()}
    if operation.body_schema is not None:
        content = json.dumps(request.body).encode()
        headers.setdefault("Content-Type", b"application/json")
    if operation.method == "get":
        content = b""
    headers.setdefault("Authorization", f"Bearer {rows.find_token(operation.path)}".encode())
    encoded = [(name.encode(), value) for name, value in headers.items()]
    return api.http.request(operation.method, f"{path}?{query}", content=content, headers=encoded)


def _quote(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass")


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _resolve(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        found: dict[str, Any] = SCHEMAS[schema["$ref"].rsplit("/", 1)[-1]]
        return found
    return schema


def _sample(schema: dict[str, Any]) -> Any:
    """A valid value: an example, or the simplest one of its type."""
    schema = _resolve(schema)
    if "examples" in schema:
        return schema["examples"][0]
    if "enum" in schema:
        return schema["enum"][0]
    if "anyOf" in schema:
        return _sample(schema["anyOf"][0])
    if schema.get("type") == "object":
        required = schema.get("required", ())
        return {name: _sample(schema["properties"][name]) for name in required}
    least = max(1, schema.get("minimum", 0))
    items = [_sample(schema["items"])] if schema.get("minItems") else []
    simplest = {"array": items, "string": "a", "integer": least, "number": 1.0, "boolean": False}
    return schema.get("default", simplest.get(schema.get("type", ""), {}))


def _insert(schema: dict[str, Any], text: str) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Values of the schema with the text in one place, each with that place: pointer and schema."""
    schema = _resolve(schema)
    for option in schema.get("anyOf", ()):
        yield from _insert(option, text)
    kind = schema.get("type", "any" if "anyOf" not in schema else None)
    if kind in {"string", "any"}:
        yield "", schema, text
    if kind == "object":
        base = _sample(schema)
        for name, field in schema.get("properties", {}).items():
            yield from (
                (f"/{name}{rest}", found, {**base, name: value})
                for rest, found, value in _insert(field, text)
            )
        if schema.get("additionalProperties", True):
            values = schema.get("additionalProperties", {})
            values = values if isinstance(values, dict) else {}
            yield "/*", values, {**base, text: _sample(values)}
            yield from (
                (f"/*{rest}", found, {**base, "a": value})
                for rest, found, value in _insert(values, text)
            )
    if kind == "array":
        items = schema.get("prefixItems") or [schema["items"]]
        for index, item in enumerate(items):
            for rest, found, value in _insert(item, text):
                yield (
                    f"/{index}{rest}",
                    found,
                    [*map(_sample, items[:index]), value, *map(_sample, items[index + 1 :])],
                )
