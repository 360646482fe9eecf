"""A page of the dashboard as one HTML file with its data, which needs no service and no network."""

import base64
import json
import re
from collections.abc import Mapping
from html import escape
from typing import Any

from api import dashboard
from service.errors import Conflict

# The file loads nothing, whatever it contains.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
_SCRIPT = re.compile(r'<script type="module"[^>]* src="(/assets/[^"]+)"></script>')
_STYLE = re.compile(r'<link rel="stylesheet"[^>]* href="(/assets/[^"]+)">')
_ICON = re.compile(r'<link rel="icon"[^>]*>')


def make_file(
    path: str,
    *,
    title: str,
    session: Mapping[str, Any],
    responses: Mapping[str, Any],
    pictures: Mapping[str, bytes],
) -> str:
    """`path`: of the page. `responses`: bodies by the path of their request; of metrics, by axis.

    `pictures`: SVG files by their path. Conflict where the dashboard is not built.
    """
    if not dashboard.is_built():
        raise Conflict("the dashboard of this service is not built: run `make dashboard`")
    html = _ICON.sub("", (dashboard.STATIC / "index.html").read_text(encoding="utf-8"))
    data = {
        "path": path,
        "session": session,
        "responses": responses,
        "pictures": {
            name: f"data:image/svg+xml;base64,{base64.b64encode(content).decode()}"
            for name, content in pictures.items()
        },
    }
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    document = json.dumps(data).replace("<", "\\u003c")
    head = (
        f"{policy}<title>{escape(title)}</title>"
        f'<script type="application/json" id="export">{document}</script>'
    )
    html = re.sub(r"<title>.*?</title>", lambda _: head, html, count=1)
    html = _STYLE.sub(lambda found: f"<style>{_read(found[1])}</style>", html)
    return _SCRIPT.sub(
        lambda found: (
            '<script type="module">'
            + _read(found[1]).replace("</script", "<\\/script")
            + "</script>"
        ),
        html,
    )


def _read(asset: str) -> str:
    return (dashboard.STATIC / asset.removeprefix("/")).read_text(encoding="utf-8")
