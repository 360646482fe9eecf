"""The application: its OpenAPI document, request ids, and the limit of bodies."""

import asyncio
import re
import uuid
from pathlib import Path
from urllib.parse import urljoin

import pytest

from api.app import create_app
from service.errors import DatabaseUnavailable
from service.settings import Settings
from tests.support.api import Api


def test_the_openapi_document_names_the_spec_of_a_job(api: Api) -> None:
    document = api.get("/v1/openapi.json").json()
    body = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    assert body["schema"] == {"$ref": "#/components/schemas/JobSpec"}
    required = document["components"]["schemas"]["JobSpec"]["required"]
    assert {"depth", "shortcut", "dataset"} <= set(required)


def test_the_openapi_document_is_produced_without_a_database(tmp_path: Path) -> None:
    paths = create_app(Settings(var_dir=tmp_path)).openapi()["paths"]
    assert "/v1/attempts/{attempt_id}/reports" in paths


def test_the_page_of_the_api_loads_its_files_from_the_api(api: Api) -> None:
    page = api.call("GET", "/v1/docs", token=None)
    assert page.headers["Content-Type"].startswith("text/html")
    references = re.findall(r"""(?:src=|href=|url: )["']([^"']+)""", page.text)
    types = {}
    for reference in references:
        url = urljoin(str(page.url), reference)
        assert url.startswith(f"{api.url}/v1/"), reference
        answer = api.call("GET", url, token=None)
        assert answer.status_code == 200, reference
        types[url.rsplit("/", 1)[-1]] = answer.headers["Content-Type"].split(";")[0]
    assert types == {
        "swagger-ui.css": "text/css",
        "favicon.png": "image/png",
        "swagger-ui-bundle.js": "text/javascript",
        "openapi.json": "application/json",
    }
    assert api.call("GET", "/v1/docs/..%2fcore.py", token=None).status_code == 404


def test_every_response_has_its_own_request_id(api: Api) -> None:
    ids = {api.get("/v1/health").headers["X-Request-Id"] for _ in range(2)}
    assert len({uuid.UUID(request_id) for request_id in ids}) == 2


def test_an_api_over_an_old_schema_does_not_start(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'api.db'}"
    app = create_app(Settings(var_dir=tmp_path, database_url=url))

    async def start() -> None:
        async with app.router.lifespan_context(app):
            pass

    with pytest.raises(DatabaseUnavailable, match="resnetd-server migrate"):
        asyncio.run(start())
