"""The API's page for a browser: Swagger UI, served from this installation and not from a CDN."""

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles


def install(app: FastAPI) -> None:
    """Adds `/v1/docs` and its files, which need no token."""

    @app.get("/v1/docs", include_in_schema=False)
    def show_docs() -> HTMLResponse:
        # Relative URLs, so that the page works behind a proxy that adds a path.
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url="docs/swagger-ui-bundle.js",
            swagger_css_url="docs/swagger-ui.css",
            swagger_favicon_url="docs/favicon.png",
        )

    app.mount("/v1/docs", StaticFiles(packages=[("fastapi_offline", "static")]))
