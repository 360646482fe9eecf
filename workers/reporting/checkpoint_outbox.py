"""Checkpoints on disk until the API has all their parts."""

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
from workers.reporting.api_client import ApiClient
from workers.reporting.retry import Backoff

# What says that the attempt is over; no later call will be answered otherwise.
FENCED_ERRORS = (StaleAttempt, Unauthorized, Forbidden, NotFound)

_TRIES_OF_CORRUPT = 3

log = structlog.get_logger()


class HeldCheckpoint(BaseModel):
    """A checkpoint whose files are ours: uploaded, then deleted."""

    note: CheckpointManifest
    files: dict[CheckpointPart, Path]


class CheckpointOutbox:
    """Uploads checkpoints one after another, on a thread of its own.

    Each is written down as `<path>/00000400.json`, so that a drain finds what a dead process
    left. While several wait, those that a newer one supersedes are deleted; the best by test
    error stays, too, where it beats all that were delivered.

    `on_uploaded` is called when all parts of a checkpoint are up and must have its note in
    safety when it returns: only then is the checkpoint forgotten here. `on_refused` is called
    when the API or the disk will never give us that checkpoint, `on_fenced` when the attempt
    is over.
    """

    def __init__(
        self,
        api: ApiClient,
        path: Path,
        *,
        on_uploaded: Callable[[CheckpointManifest], None],
        on_refused: Callable[[CheckpointManifest, Exception], None],
        on_fenced: Callable[[Exception], None],
    ) -> None:
        self._api = api
        self._path = path
        self._on_uploaded = on_uploaded
        self._on_refused = on_refused
        self._on_fenced = on_fenced
        self._changed = threading.Condition()
        self._added: list[HeldCheckpoint] = []
        self._waiting: list[HeldCheckpoint] = []
        self._ended = threading.Event()
        self._best_delivered: float | None = None
        self._newest_refused: int | None = None
        self.last_error: Exception | None = None
        path.mkdir(parents=True, exist_ok=True)
        self._waiting = [held for file in sorted(path.glob("*.json")) for held in _found(file)]
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, note: CheckpointManifest, files: dict[CheckpointPart, Path]) -> None:
        """Takes the files over; returns at once."""
        with self._changed:
            self._added.append(HeldCheckpoint(note=note, files=files))
            self._changed.notify()

    @property
    def is_empty(self) -> bool:
        with self._changed:
            return not self._added and not self._waiting

    @property
    def lost_the_newest(self) -> bool:
        """Whether the last checkpoint of all was refused: there is nothing to end with."""
        return self._newest_refused is not None

    def end(self) -> None:
        """No upload begins after this."""
        self._ended.set()
        with self._changed:
            self._changed.notify()

    def join(self, seconds: float) -> None:
        """Waits for the thread; one that is in the middle of an upload may outlast it."""
        self._thread.join(seconds)

    def _run(self) -> None:
        backoff = Backoff()
        tries_of_corrupt = 0
        while (held := self._next()) is not None:
            try:
                self._upload(held)
            except FENCED_ERRORS as error:
                self._on_fenced(error)
                return
            except Unavailable as error:
                self.last_error = error
                self._ended.wait(backoff.next_seconds())
            except CorruptArtifact as error:
                tries_of_corrupt += 1
                if tries_of_corrupt < _TRIES_OF_CORRUPT:
                    continue
                tries_of_corrupt = 0
                self._refuse(held, error)
            except (Refused, OSError) as error:
                self._refuse(held, error)
            else:
                backoff.reset()
                tries_of_corrupt = 0
                self._on_uploaded(held.note)
                self._newest_refused = None
                self._best_delivered = min(
                    (
                        error
                        for error in (self._best_delivered, held.note.test_error)
                        if error is not None
                    ),
                    default=None,
                )
                self._forget(held)

    def _next(self) -> HeldCheckpoint | None:
        """The oldest that is worth an upload; waits for one. None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._added or self._waiting or self._ended.is_set())
            added = self._added
            self._waiting, self._added = [*self._waiting, *added], []
            waiting = list(self._waiting)
        if self._ended.is_set():
            return None
        for held in added:
            self._write_down(held)
        for superseded in _superseded(waiting, best_delivered=self._best_delivered):
            self._forget(superseded)
        return self._waiting[0]

    def _upload(self, held: HeldCheckpoint) -> None:
        for digest in held.note.parts:
            self._api.upload(
                iteration=held.note.iteration, digest=digest, path=held.files[digest.part]
            )

    def _refuse(self, held: HeldCheckpoint, error: Exception) -> None:
        self._newest_refused = held.note.iteration
        self.last_error = error
        self._on_refused(held.note, error)
        self._forget(held)

    def _write_down(self, held: HeldCheckpoint) -> None:
        file = self._file(held)
        partial = file.with_suffix(".tmp")
        try:
            partial.write_text(held.model_dump_json())
            partial.replace(file)
        except OSError as error:
            # It is still uploaded; only a drain would not find it.
            log.warning("checkpoint not written down", file=str(file), error=str(error))

    def _forget(self, held: HeldCheckpoint) -> None:
        self._file(held).unlink(missing_ok=True)
        for path in held.files.values():
            path.unlink(missing_ok=True)
        for folder in {path.parent for path in held.files.values()}:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        with self._changed:
            self._waiting.remove(held)

    def _file(self, held: HeldCheckpoint) -> Path:
        return self._path / f"{held.note.iteration:08d}.json"


def _superseded(
    waiting: list[HeldCheckpoint], *, best_delivered: float | None
) -> list[HeldCheckpoint]:
    """All but the newest and, where it beats every delivered one, the best by test error."""
    if len(waiting) < 2:  # noqa: PLR2004
        return []
    newest = waiting[-1]
    judged = [held for held in waiting if held.note.test_error is not None]
    best = min(judged, key=lambda held: held.note.test_error or 0.0, default=newest)
    if best_delivered is not None and (best.note.test_error or 0.0) >= best_delivered:
        best = newest
    return [held for held in waiting if held is not newest and held is not best]


def _found(file: Path) -> list[HeldCheckpoint]:
    try:
        return [HeldCheckpoint.model_validate_json(file.read_bytes())]
    except (OSError, ValidationError) as error:
        log.warning("checkpoint unreadable", file=str(file), error=str(error))
        return []
