"""Backup and restore of a service: its database, artifacts and uploaded datasets, as one folder.

    FOLDER/manifest.json       what the backup has; written last: a folder without it is incomplete
    FOLDER/database-*.db       all rows as an SQLite database, whatever the service uses
    FOLDER/artifacts/          the files of all checkpoints, by key
    FOLDER/datasets/NAME/      the uploaded datasets

The rows are those of one moment. Files are copied afterwards; they never change, and those of
checkpoints that retention deletes meanwhile are left out together with their rows. A second backup
to the same folder copies only what is new.
"""

import asyncio
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, delete, select, text

from service.catalog import datasets, uploads
from service.errors import Conflict, CorruptArtifact, InvalidInput, NotFound
from service.jobs import checkpoints
from service.jobs.checkpoints import CheckpointFile
from service.storage import copying, schema
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database
from service.storage.tables import CheckpointRow

_FORMAT = 1
_MANIFEST = "manifest.json"
# What a first backup that was interrupted may have left.
_OUR_NAMES = ("partial", "artifacts", "database-", "datasets")


@dataclass(frozen=True)
class Manifest:
    """`database`: name of the file, `sha256` its checksum. `rows` by table.

    `schema`: the revision of the tables.
    """

    format: int
    created_at: str
    schema: str
    database: str
    sha256: str
    rows: dict[str, int]
    artifacts: int
    artifact_bytes: int
    datasets: list[str]


@dataclass(frozen=True)
class Copied:
    """`problems`: files that could not be copied, as sentences."""

    manifest: Manifest
    problems: list[str]


def back_up(
    database: Database, artifacts: ArtifactStore, *, data_dir: Path, folder: Path, now: datetime
) -> Copied:
    """Writes a backup to the folder, which is new, empty, or has an earlier backup.

    The service may run meanwhile. Raises InvalidInput for another folder.
    """
    schema.require_current(database)
    _prepare(folder)
    partial = folder / "partial.db"
    _delete_database(partial)
    with closing(Database(f"sqlite:///{partial.absolute()}")) as copy:
        schema.upgrade(copy)
        with database.reading() as session, copy.engine.begin() as connection:
            rows = copying.copy_rows(session.connection(), connection)
        files, problems = _copy_artifacts(database, copy, artifacts, folder)
    with closing(sqlite3.connect(partial)) as plain:
        # Without a log beside it, the database is a single file.
        plain.execute("PRAGMA journal_mode=DELETE")
    uploaded = _copy_uploads(data_dir, folder / "datasets")
    sha256 = _hash(partial)
    name = f"database-{sha256[:16]}.db"
    partial.rename(folder / name)
    manifest = Manifest(
        format=_FORMAT,
        created_at=now.isoformat(),
        schema=schema.newest_revision(),
        database=name,
        sha256=sha256,
        rows=rows,
        artifacts=len(files),
        artifact_bytes=sum(file.size_bytes for file in files),
        datasets=uploaded,
    )
    _write_manifest(folder, manifest)
    _prune(folder, manifest, {file.key for file in files})
    return Copied(manifest, problems)


def restore(
    database: Database, artifacts: ArtifactStore, *, data_dir: Path, folder: Path
) -> Copied:
    """Restores a backup to an empty database, and to a store and a data directory.

    The rows are written last, in one transaction: a restore that was interrupted can be repeated.
    Raises InvalidInput for a folder without a complete backup, Conflict if the database has rows.
    """
    manifest = read_manifest(folder)
    path = folder / manifest.database
    if not path.is_file() or _hash(path) != manifest.sha256:
        raise InvalidInput(f"{path} is not the file that the backup wrote")
    schema.upgrade(database)
    with database.reading() as session:
        _require_empty(session.connection())
    with _open_backup(path) as backup:
        problems = _copy_files(_saved_artifacts(folder), artifacts, _list_files(backup))
        _restore_uploads(folder / "datasets", data_dir, manifest.datasets)
        with database.transaction() as session:
            _require_empty(session.connection())
            copying.copy_rows(backup, session.connection())
    return Copied(manifest, problems)


@contextmanager
def _open_backup(path: Path) -> Iterator[Connection]:
    """Immutable: neither a log nor a lock is written beside the file, which may be read-only."""
    engine = create_engine(f"sqlite:///file:{quote(str(path.absolute()))}?immutable=1&uri=true")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def copy_artifacts(database: Database, source: ArtifactStore, target: ArtifactStore) -> list[str]:
    """Copies the files of all checkpoints to another store. Returns what could not be copied."""
    schema.require_compatible(database)
    with database.reading() as session:
        files = list(_list_files(session.connection()))
    return _copy_files(source, target, files)


def read_manifest(folder: Path) -> Manifest:
    try:
        read = json.loads((folder / _MANIFEST).read_text("utf-8"))
        manifest = Manifest(**read)
    except (OSError, ValueError, TypeError) as error:
        raise InvalidInput(f"{folder} has no complete backup") from error
    if manifest.format != _FORMAT:
        raise InvalidInput(f"{folder} has a backup of format {manifest.format}, not {_FORMAT}")
    newest = schema.newest_revision()
    if manifest.schema != newest:
        raise InvalidInput(
            f"{folder} has tables of revision {manifest.schema}, this version those of "
            f"{newest}: restore it with the version that wrote it, then upgrade"
        )
    return manifest


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Rows have digests of tokens, and files what members may not see of each other.
        folder.chmod(0o700)
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be written: {error.strerror}") from error
    if _MANIFEST not in names and not all(name.startswith(_OUR_NAMES) for name in names):
        raise InvalidInput(f"{folder} is not empty and has no backup")


def _copy_artifacts(
    database: Database, copy: Database, artifacts: ArtifactStore, folder: Path
) -> tuple[list[CheckpointFile], list[str]]:
    """Drops the rows of checkpoints that were deleted since the rows were read."""
    target = _saved_artifacts(folder)
    copied, problems = [], []
    with copy.reading() as session:
        rows = session.scalars(select(CheckpointRow).order_by(CheckpointRow.id)).all()
    deleted = []
    for row in rows:
        files = list(checkpoints.files_of(row).values())
        failed = _copy_files(artifacts, target, files)
        if failed and not _exists(database, row.id):
            deleted.append(row.id)
            continue
        problems += failed
        copied += files
    with copy.engine.begin() as connection:
        for checkpoint_id in deleted:
            connection.execute(delete(CheckpointRow).where(CheckpointRow.id == checkpoint_id))
    return copied, problems


def _exists(database: Database, checkpoint_id: str) -> bool:
    with database.reading() as session:
        return session.get(CheckpointRow, checkpoint_id) is not None


def _saved_artifacts(folder: Path) -> ArtifactStore:
    return ArtifactStore((folder / "artifacts").absolute().as_uri())


def _copy_files(
    source: ArtifactStore, target: ArtifactStore, files: Iterable[CheckpointFile]
) -> list[str]:
    """Copies those that the target lacks. Returns what could not be copied, as sentences."""
    found = (_copy_file(source, target, file) for file in files)
    return [problem for problem in found if problem is not None]


def _copy_file(source: ArtifactStore, target: ArtifactStore, file: CheckpointFile) -> str | None:
    # A key contains a part of its checksum, so its bytes are fixed.
    if target.size(file.key) == file.size_bytes:
        return None
    try:
        asyncio.run(
            target.write(
                file.key, source.stream(file.key), sha256=file.sha256, max_bytes=file.size_bytes
            )
        )
    except NotFound:
        return f"{file.key} does not exist"
    except (CorruptArtifact, InvalidInput) as error:
        return f"{file.key}: {error}"
    return None


def _list_files(connection: Connection) -> Iterator[CheckpointFile]:
    for parts in connection.scalars(select(CheckpointRow.parts).order_by(CheckpointRow.id)):
        yield from (CheckpointFile(**file) for file in parts.values())


def _copy_uploads(data_dir: Path, target: Path) -> list[str]:
    copied = []
    for name, upload in uploads.list_uploads(data_dir):
        folder_name = name.removeprefix(datasets.FOLDER_PREFIX)
        source = data_dir / folder_name
        known = uploads.find_upload(target / folder_name)
        if known != upload:
            try:
                _copy_folder(source, target / folder_name)
            except (FileNotFoundError, shutil.Error):
                if uploads.find_upload(source) is None:  # deleted meanwhile
                    continue
                raise
        copied.append(folder_name)
    return copied


def _restore_uploads(source: Path, data_dir: Path, names: list[str]) -> None:
    for name in names:
        known = uploads.find_upload(data_dir / name)
        if known is not None and known == uploads.find_upload(source / name):
            continue
        if (data_dir / name).exists():
            raise Conflict(f"{data_dir / name} exists and is not the dataset of the backup")
        _copy_folder(source / name, data_dir / name)


def _copy_folder(source: Path, target: Path) -> None:
    """The target appears with all its files, or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=uploads.SCRATCH_PREFIX))
    try:
        shutil.copytree(source, scratch / "copy")
        shutil.rmtree(target, ignore_errors=True)
        (scratch / "copy").rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _require_empty(connection: Connection) -> None:
    for table in copying.list_tables():
        if connection.execute(select(text("1")).select_from(table).limit(1)).first() is not None:
            raise Conflict(
                f"the database has {table.name.replace('_', ' ')}: a backup is restored to an "
                "empty database, before the API and the dispatcher start"
            )


def _prune(folder: Path, manifest: Manifest, keys: set[str]) -> None:
    """Deletes what an earlier backup had and this one has not."""
    for path in folder.glob("database-*.db"):
        if path.name != manifest.database:
            path.unlink()
    store = _saved_artifacts(folder)
    found = [artifact.key for artifact in store.list_prefix(checkpoints.ARTIFACT_PREFIX)]
    store.delete([key for key in found if key not in keys])
    if (folder / "datasets").is_dir():
        for path in (folder / "datasets").iterdir():
            if path.name not in manifest.datasets:
                shutil.rmtree(path)


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    partial = folder / "partial.json"
    partial.write_text(json.dumps(asdict(manifest), indent=2) + "\n", "utf-8")
    # All bytes are on the disk before the manifest says so.
    os.sync()
    partial.rename(folder / _MANIFEST)
    os.sync()


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _delete_database(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
