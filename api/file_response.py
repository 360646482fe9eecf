"""Reports and figures as files, each format with its media type."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

from fastapi import Response

_MEDIA_TYPES = {
    "md": "text/markdown",
    "tex": "application/x-tex",
    "csv": "text/csv",
    "svg": "image/svg+xml",
    "png": "image/png",
}


def file_response(content: str | bytes, *, name: str, file_format: StrEnum) -> Response:
    """`name`: of the file, without the format."""
    return Response(
        content,
        media_type=_MEDIA_TYPES[file_format],
        headers={"Content-Disposition": f'inline; filename="{name}.{file_format}"'},
    )


def describe_files(formats: Iterable[StrEnum]) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI document says of a route that answers with such files."""
    return {200: {"content": {_MEDIA_TYPES[file_format]: {} for file_format in formats}}}
