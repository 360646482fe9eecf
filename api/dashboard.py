"""The dashboard: its built files, served from `api/static` with headers for a browser."""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse, Response
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"

# Addresses of the dashboard's pages; it reads the rest of the address itself.
PAGES = (
    "/",
    "/jobs/{job_id}",
    "/submit",
    "/compare",
    "/searches",
    "/searches/{search_id}",
    "/studies",
    "/studies/{study_id}",
    "/models",
    "/models/{name:path}",
    "/cluster",
    "/people",
    "/settings",
    "/shared",
)
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_NOT_BUILT = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>resnetd</title>
<h1>The dashboard is not built</h1>
<p>This installation has no <code>api/static</code>. The API works without it:
<a href="/v1/docs">its description</a>.</p>
<p>To build the dashboard, run <code>make dashboard</code> in a checkout of the source and start
the service again. It needs Node.js 20.19 or newer, which the command installs where it is missing.
</p>
</html>
"""


class _CachedFiles(StaticFiles):
    """Browsers keep each file: its name contains the hash of its content."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def is_built() -> bool:
    return (STATIC / "index.html").is_file()


def install(app: FastAPI) -> None:
    """Adds the pages and their files, which need no token; without a build, how to get one."""

    def show_page() -> Response:
        if is_built():
            return FileResponse(STATIC / "index.html", headers=_HEADERS)
        return HTMLResponse(_NOT_BUILT, headers=_HEADERS)

    for path in PAGES:
        app.add_api_route(path, show_page, include_in_schema=False)
    files = _CachedFiles(directory=STATIC / "assets", check_dir=False)
    app.mount("/assets", GZipMiddleware(files))
