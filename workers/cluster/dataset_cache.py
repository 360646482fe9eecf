"""Uploaded datasets on a node: fetched from the API once, by content, and deleted when unused.

WORK/datasets/SHA256/NAME/    the images
WORK/datasets/SHA256/weights  a link to the published weights in the data directory
WORK/datasets/SHA256.lock     exclusive while the images are fetched, shared while they are used
"""

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from service.catalog import uploads
from service.catalog.datasets import FOLDER_PREFIX, WEIGHTS_FOLDER
from service.errors import CorruptArtifact
from service.specs.protocol import UploadedImages
from service.states import LogLevel
from service.text import format_bytes
from workers.cluster.process_settings import AttemptSettings
from workers.reporting.api_client import AttemptClient
from workers.reporting.retry import retry_until
from workers.training.observers import LogFunction

# A dataset that no job has used for so long is fetched again when one does.
_UNUSED_SECONDS = 7 * 24 * 3600.0


@contextmanager
def provide_dataset(name: str, settings: AttemptSettings, *, log: LogFunction) -> Iterator[Path]:
    """The directory that has the job's dataset, for as long as it is used.

    That is the node's data directory, unless the dataset was uploaded and is not there. Processes
    that need the same upload at the same time fetch it once.
    """
    if not name.startswith(FOLDER_PREFIX):
        yield settings.data_dir
        return
    with settings.client() as api:
        described = retry_until(api.describe_dataset, deadline_seconds=settings.delivery_seconds)
    if described.upload is None or _has_upload(name, settings.data_dir, described.upload):
        yield settings.data_dir
        return
    root = settings.work_dir / "datasets"
    root.mkdir(parents=True, exist_ok=True)
    cache = root / described.upload.sha256
    with cache.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not cache.is_dir():
            _delete_unused(root)
            _fetch(name, described.upload, cache, settings, log)
        cache.touch()
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield cache


def _has_upload(name: str, data_dir: Path, wanted: UploadedImages) -> bool:
    """Where the data directory is shared with the API, or was copied from it."""
    found = uploads.find_upload(uploads.folder_of(name, data_dir))
    return found is not None and found.content_sha256 == wanted.sha256


def _fetch(
    name: str, upload: UploadedImages, cache: Path, settings: AttemptSettings, log: LogFunction
) -> None:
    """The directory gets its name once it is complete. The caller has the lock."""
    log(LogLevel.INFO, f"fetching {name}, {format_bytes(upload.stored_bytes)}, from the API")
    began = time.monotonic()
    partial_cache = cache.with_suffix(".partial")
    with settings.client() as api:
        retry_until(
            partial(_download, api, name, upload, partial_cache),
            deadline_seconds=settings.delivery_seconds,
        )
    (partial_cache / WEIGHTS_FOLDER).symlink_to(settings.data_dir / WEIGHTS_FOLDER)
    partial_cache.rename(cache)
    log(LogLevel.INFO, f"fetched {name} in {time.monotonic() - began:.1f} s")


def _download(api: AttemptClient, name: str, upload: UploadedImages, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)  # of a call that failed, or a killed process
    target.mkdir()
    try:
        api.download_dataset(upload, uploads.folder_of(name, target))
    except CorruptArtifact:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _delete_unused(root: Path) -> None:
    for path in root.iterdir():
        if path.suffix == ".lock" or time.time() - path.stat().st_mtime < _UNUSED_SECONDS:
            continue
        with path.with_suffix(".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # of a training that has used it for so long
            shutil.rmtree(path, ignore_errors=True)
