"""Uploads checkpoints, and keeps them on disk until the API has all their parts."""

import threading
from collections.abc import Callable
from pathlib import Path

import structlog
from pydantic import BaseModel, ValidationError

from service.errors import (
    CorruptArtifact,
    Forbidden,
    NotFound,
    Refused,
    StaleAttempt,
    Unauthorized,
    Unavailable,
)
from service.specs.protocol import CheckpointManifest
from service.states import CheckpointPart
from service.supervision import start_supervised
from workers.reporting.api_client import AttemptClient

# The attempt has ended; the API responds to all later calls with these errors.
FENCED_ERRORS = (StaleAttempt, Unauthorized, Forbidden, NotFound)

_MAX_CORRUPT_UPLOADS = 3

log = structlog.get_logger()


class QueuedCheckpoint(BaseModel):
    """A checkpoint that waits for its upload. The outbox owns the files and deletes them."""

    manifest: CheckpointManifest
    files: dict[CheckpointPart, Path]


class CheckpointOutbox:
    """Uploads checkpoints one after another, on its own thread.

    The record `<path>/00000400.json` lists the files of a queued checkpoint, so that a later
    process can continue. A checkpoint that waits is deleted when a newer one is queued, unless
    its test error is below those of all others.

    Args:
        api: receives the parts.
        path: directory of the records.
        on_uploaded: called when all parts are uploaded; saves the manifest before it returns,
            since the outbox deletes the checkpoint then.
        on_rejected: called when the API rejects a checkpoint or its files cannot be read.
        on_fenced: called when the attempt has ended.
    """

    def __init__(
        self,
        api: AttemptClient,
        path: Path,
        *,
        on_uploaded: Callable[[CheckpointManifest], None],
        on_rejected: Callable[[CheckpointManifest, Exception], None],
        on_fenced: Callable[[Exception], None],
    ) -> None:
        self._api = api
        self._path = path
        self._on_uploaded = on_uploaded
        self._on_rejected = on_rejected
        self._on_fenced = on_fenced
        self._changed = threading.Condition()
        self._added: list[QueuedCheckpoint] = []
        self._queue: list[QueuedCheckpoint] = []
        self._closed = threading.Event()
        self._best_uploaded: float | None = None
        self._num_corrupt = 0
        self.is_newest_lost = False
        self.last_error: Exception | None = None
        path.mkdir(parents=True, exist_ok=True)
        records = map(_read_record, sorted(path.glob("*.json")))
        self._queue = [checkpoint for checkpoint in records if checkpoint is not None]
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = start_supervised(
            self._upload_next, name="checkpoints", stopping=self._closed
        )

    def add(self, manifest: CheckpointManifest, files: dict[CheckpointPart, Path]) -> None:
        """Takes ownership of the files; returns at once."""
        with self._changed:
            self._added.append(QueuedCheckpoint(manifest=manifest, files=files))
            self._changed.notify()

    @property
    def is_empty(self) -> bool:
        with self._changed:
            return not self._added and not self._queue

    def close(self) -> None:
        """Starts no further upload."""
        self._closed.set()
        with self._changed:
            self._changed.notify()

    def join(self, seconds: float) -> None:
        """Waits for the thread, which an upload may keep busy for longer."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _upload_next(self) -> None:
        """Uploads the next checkpoint. Raises Unavailable if that may succeed later."""
        checkpoint = self._next()
        if checkpoint is None:
            return
        manifest = checkpoint.manifest
        try:
            for digest in manifest.parts:
                path = checkpoint.files[digest.part]
                self._api.upload(iteration=manifest.iteration, digest=digest, path=path)
        except Unavailable as error:
            self.last_error = error
            raise
        except FENCED_ERRORS as error:
            self._on_fenced(error)
            return
        except CorruptArtifact as error:
            self._num_corrupt += 1
            if self._num_corrupt < _MAX_CORRUPT_UPLOADS:
                return
            self._reject(manifest, error)
        except (Refused, OSError) as error:
            self._reject(manifest, error)
        else:
            self.is_newest_lost = False
            self._on_uploaded(manifest)
            self._best_uploaded = _min(self._best_uploaded, manifest.selection_error)
        self._num_corrupt = 0
        self._delete(checkpoint)

    def _reject(self, manifest: CheckpointManifest, error: Exception) -> None:
        self.is_newest_lost = True
        self.last_error = error
        self._on_rejected(manifest, error)

    def _next(self) -> QueuedCheckpoint | None:
        """The oldest checkpoint to upload; waits for one. None when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._added or self._queue or self._closed.is_set())
            added = self._added
            self._queue, self._added = [*self._queue, *added], []
            queue = list(self._queue)
        if self._closed.is_set():
            return None
        for checkpoint in added:
            self._write_record(checkpoint)
        for superseded in _find_superseded(queue, best_uploaded=self._best_uploaded):
            self._delete(superseded)
        return self._queue[0]

    def _write_record(self, checkpoint: QueuedCheckpoint) -> None:
        file = self._record_file(checkpoint)
        partial = file.with_suffix(".tmp")
        try:
            partial.write_text(checkpoint.model_dump_json())
            partial.replace(file)
        except OSError as error:
            # This process still uploads it; only a later one would not find it.
            log.warning("checkpoint record not written", file=str(file), error=str(error))

    def _delete(self, checkpoint: QueuedCheckpoint) -> None:
        self._record_file(checkpoint).unlink(missing_ok=True)
        for path in checkpoint.files.values():
            path.unlink(missing_ok=True)
        for directory in {path.parent for path in checkpoint.files.values()}:
            if directory.is_dir() and not any(directory.iterdir()):
                directory.rmdir()
        with self._changed:
            self._queue.remove(checkpoint)

    def _record_file(self, checkpoint: QueuedCheckpoint) -> Path:
        return self._path / f"{checkpoint.manifest.iteration:08d}.json"


def _find_superseded(
    queue: list[QueuedCheckpoint], *, best_uploaded: float | None
) -> list[QueuedCheckpoint]:
    """All but the newest and the best, if that is better than all uploaded ones."""
    if len(queue) < 2:  # noqa: PLR2004
        return []
    newest = queue[-1]
    evaluated = [item for item in queue if item.manifest.selection_error is not None]
    best = min(evaluated, key=lambda item: item.manifest.selection_error or 0.0, default=newest)
    if best_uploaded is not None and (best.manifest.selection_error or 0.0) >= best_uploaded:
        best = newest
    return [item for item in queue if item is not newest and item is not best]


def _min(*values: float | None) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _read_record(file: Path) -> QueuedCheckpoint | None:
    try:
        return QueuedCheckpoint.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        log.warning("checkpoint record unreadable", file=str(file), error=str(error))
        return None
