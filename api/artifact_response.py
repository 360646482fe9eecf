"""Downloads of stored files."""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi.responses import StreamingResponse
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from service.errors import NotFound
from service.jobs.checkpoints import CheckpointFile
from service.storage.artifacts import ArtifactStore

# Of the OpenAPI document.
BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
# For routes that answer with a file.
DOWNLOAD_RESPONSES: dict[int | str, dict[str, Any]] = {
    HTTPStatus.OK: {"content": BYTES},
    HTTPStatus.PARTIAL_CONTENT: {"description": "the bytes that `Range` names", "content": BYTES},
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: {
        "description": "the file has none of the bytes that `Range` names"
    },
    HTTPStatus.TEMPORARY_REDIRECT: {"description": "`Location` is a URL of the bucket"},
}
# Smaller files would take longer with a second request.
MIN_REDIRECT_BYTES = 8 * 2**20
# A single range; a server may ignore all others (RFC 9110, section 14.2).
_BYTE_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{1,18})?|-(\d{1,18}))")


class ArtifactResponse(StreamingResponse):
    """Streams a file from the artifact store, or the range of it that the request names.

    It opens the file when it is sent, after the session of the route is closed. An artifact that
    does not exist is still answered with 404, since the headers follow the first call to the store.
    `redirect_seconds`: above 0, the response to GET is the URL of a large file that is in S3.
    """

    def __init__(
        self,
        artifacts: ArtifactStore,
        file: CheckpointFile,
        headers: Mapping[str, str] | None = None,
        *,
        media_type: str = "application/octet-stream",
        redirect_seconds: int = 0,
    ) -> None:
        super().__init__(
            iter(()),
            media_type=media_type,
            headers={
                "Accept-Ranges": "bytes",
                "Content-Length": str(file.size_bytes),
                "ETag": f'"{file.sha256}"',
                **(headers or {}),
            },
        )
        self._artifacts = artifacts
        self._file = file
        self._redirect_seconds = redirect_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET" and (url := await self._presign()) is not None:
            self.status_code = HTTPStatus.TEMPORARY_REDIRECT
            self.headers.update(
                {"Location": url, "Content-Length": "0", "Cache-Control": "no-store"}
            )
            await super().__call__(scope, receive, send)
            return
        byte_range = self._requested_range(Headers(scope=scope))
        if byte_range is not None:
            self._set_range(byte_range)
        if scope["method"] == "HEAD":
            if await run_in_threadpool(self._artifacts.size, self._file.key) is None:
                raise NotFound(f"no artifact {self._file.key}")
        elif byte_range is None or byte_range:
            chunks = await run_in_threadpool(self._artifacts.read, self._file.key, byte_range)
            self.body_iterator = iterate_in_threadpool(chunks)
        await super().__call__(scope, receive, send)

    async def _presign(self) -> str | None:
        if self._redirect_seconds == 0 or self._file.size_bytes < MIN_REDIRECT_BYTES:
            return None
        return await self._artifacts.presign(self._file.key, seconds=self._redirect_seconds)

    def _requested_range(self, headers: Headers) -> range | None:
        """None without a range that applies; an empty range if none of its bytes exist."""
        match = _BYTE_RANGE.fullmatch(headers.get("Range", "").strip())
        if match is None or headers.get("If-Range", self.headers["ETag"]) != self.headers["ETag"]:
            return None
        first, last, suffix = match.groups()
        size = self._file.size_bytes
        if suffix is not None:
            return range(max(size - int(suffix), 0), size)
        if last is not None and int(last) < int(first):
            return None
        return range(int(first), size if last is None else min(int(last) + 1, size))

    def _set_range(self, byte_range: range) -> None:
        size = self._file.size_bytes
        self.headers["Content-Length"] = str(len(byte_range))
        if byte_range:
            self.status_code = HTTPStatus.PARTIAL_CONTENT
            content_range = f"bytes {byte_range.start}-{byte_range.stop - 1}/{size}"
        else:
            self.status_code = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            content_range = f"bytes */{size}"
        self.headers["Content-Range"] = content_range
