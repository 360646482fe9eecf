"""Downloads of stored files."""

from collections.abc import Mapping

from fastapi.responses import StreamingResponse
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.types import Receive, Scope, Send

from service.jobs.checkpoints import CheckpointFile
from service.storage.artifacts import ArtifactStore


class ArtifactResponse(StreamingResponse):
    """Streams a file from the artifact store.

    It opens the file when it is sent, after the session of the route is closed. An artifact that
    does not exist is still answered with 404, since the headers follow the first call to the store.
    """

    def __init__(
        self,
        artifacts: ArtifactStore,
        file: CheckpointFile,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            iter(()),
            media_type="application/octet-stream",
            headers={
                "Content-Length": str(file.size_bytes),
                "ETag": f'"{file.sha256}"',
                **(headers or {}),
            },
        )
        self._artifacts = artifacts
        self._key = file.key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        chunks = await run_in_threadpool(self._artifacts.read, self._key)
        self.body_iterator = iterate_in_threadpool(chunks)
        await super().__call__(scope, receive, send)
