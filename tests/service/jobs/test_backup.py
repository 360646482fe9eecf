"""Backup and restore: everything is lost, and then there again, on either database."""

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import select

from service import __main__ as command
from service.catalog import uploads
from service.errors import InvalidInput
from service.jobs import backup, checkpoints, consistency
from service.states import Reason
from service.storage import copying
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database
from service.storage.tables import CheckpointRow, JobRow
from tests.support.core import Core, store_checkpoint

NOW = datetime(2026, 11, 28, 5, 0, tzinfo=UTC)


@pytest.fixture
def database(own_database: Database) -> Database:
    """New for each test: commands find it in a folder, where they write more."""
    return own_database


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore((tmp_path / "artifacts").as_uri())


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """With the uploaded dataset `colors`."""
    data_dir = tmp_path / "data"
    archive = tmp_path / "colors.tar"
    with tarfile.open(archive, "w") as file:
        for split in ("train", "test"):
            for name in ("blue", "red"):
                content = io.BytesIO()
                Image.new("RGB", (4, 4), name).save(content, "png")
                member = tarfile.TarInfo(f"{split}/{name}/1.png")
                member.size = content.tell()
                content.seek(0)
                file.addfile(member, content)
    uploads.register_dataset(
        "colors", archive, user="ann", sha256="0" * 64, data_dir=data_dir, max_bytes=10**6
    )
    return data_dir


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.db)])
def other_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Empty, without tables."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'other' / 'resnetd.db'}"
    else:
        url = request.getfixturevalue("postgres").new_database()
    with closing(Database(url)) as opened:
        yield opened


def _fill(core: Core, artifacts: ArtifactStore) -> None:
    """A finished job with a checkpoint, one that runs, and one that waits."""
    finished = core.run()
    stored = store_checkpoint(artifacts, finished, 40)
    core.report(finished.attempt_id, 2, checkpoints=[stored])
    core.end(finished, Reason.DIVERGED)
    core.run()
    core.submit()


def _rows(database: Database) -> dict[str, dict[Any, Any]]:
    """By table and primary key."""
    found = {}
    with database.reading() as session:
        for table in copying.list_tables():
            rows = session.execute(select(*table.primary_key, *table.columns))
            width = len(table.primary_key.columns)
            found[table.name] = {tuple(row[:width]): tuple(row) for row in rows}
    return found


def test_a_restored_service_has_all_rows_artifacts_and_uploads(
    core: Core, artifacts: ArtifactStore, data_dir: Path, other_database: Database, tmp_path: Path
) -> None:
    _fill(core, artifacts)
    folder = tmp_path / "backup"
    saved = backup.back_up(core.database, artifacts, data_dir=data_dir, folder=folder, now=NOW)
    assert saved.problems == []

    new_artifacts = ArtifactStore((tmp_path / "new-artifacts").as_uri())
    restored = backup.restore(
        other_database, new_artifacts, data_dir=tmp_path / "new-data", folder=folder
    )
    assert restored == saved
    assert _rows(other_database) == _rows(core.database)
    assert consistency.check(other_database, new_artifacts, now=NOW) == []
    [(name, upload)] = uploads.list_uploads(tmp_path / "new-data")
    assert (name, upload.train_images, upload.user) == ("folder:colors", 2, "ann")
    assert (tmp_path / "new-data" / "colors" / "train" / "red").is_dir()


def test_a_second_backup_follows_what_changed(
    core: Core, artifacts: ArtifactStore, data_dir: Path, tmp_path: Path
) -> None:
    _fill(core, artifacts)
    folder = tmp_path / "backup"

    def back_up() -> backup.Copied:
        return backup.back_up(core.database, artifacts, data_dir=data_dir, folder=folder, now=NOW)

    first = back_up()
    with core.database.transaction() as session:
        session.delete(session.scalars(select(CheckpointRow)).one())
    uploads.remove_dataset("folder:colors", data_dir)
    second = back_up()
    assert (first.manifest.artifacts > 0, second.manifest.artifacts) == (True, 0)
    assert [path.name for path in folder.glob("database-*")] == [second.manifest.database]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.parent for path in files} == {folder}


def test_files_of_a_checkpoint_that_is_deleted_meanwhile_are_not_missed(
    core: Core,
    artifacts: ArtifactStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _fill(core, artifacts)
    copy_rows = copying.copy_rows

    def copy_then_delete(*connections: Any) -> dict[str, int]:
        copied = copy_rows(*connections)
        with core.database.transaction() as session:
            session.delete(session.scalars(select(CheckpointRow)).one())
        artifacts.delete_prefix(checkpoints.ARTIFACT_PREFIX)
        return copied

    folder = tmp_path / "backup"
    # On SQLite a snapshot does not hold up writers either.
    monkeypatch.setattr(copying, "copy_rows", copy_then_delete)
    saved = backup.back_up(core.database, artifacts, data_dir=tmp_path, folder=folder, now=NOW)
    monkeypatch.undo()
    assert (saved.problems, saved.manifest.artifacts) == ([], 0)

    with closing(Database(f"sqlite:///{tmp_path / 'new.db'}")) as database:
        backup.restore(database, artifacts, data_dir=tmp_path / "data", folder=folder)
        with database.reading() as session:
            assert session.scalars(select(CheckpointRow)).all() == []
            assert len(session.scalars(select(JobRow)).all()) == 3


def test_a_first_backup_that_was_interrupted_can_be_repeated(
    core: Core,
    artifacts: ArtifactStore,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _fill(core, artifacts)

    def back_up() -> backup.Copied:
        return backup.back_up(
            core.database, artifacts, data_dir=data_dir, folder=tmp_path / "backup", now=NOW
        )

    def interrupt() -> None:
        raise KeyboardInterrupt

    # The last of what it does before the manifest is there.
    monkeypatch.setattr(os, "sync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        back_up()
    monkeypatch.undo()
    with pytest.raises(InvalidInput, match="has no complete backup"):
        backup.read_manifest(tmp_path / "backup")
    assert back_up().manifest.datasets == ["colors"]


def test_a_lost_file_is_named_and_the_rest_is_saved(
    core: Core, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    _fill(core, artifacts)
    first, *others = artifacts.list_prefix(checkpoints.ARTIFACT_PREFIX)
    artifacts.delete([first.key])
    saved = backup.back_up(
        core.database, artifacts, data_dir=tmp_path, folder=tmp_path / "backup", now=NOW
    )
    assert saved.problems == [f"{first.key} does not exist"]
    copied = ArtifactStore((tmp_path / "backup" / "artifacts").as_uri())
    assert {item.key for item in copied.list_prefix("")} == {item.key for item in others}


@pytest.fixture
def configured(core: Core, artifacts: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings of a service with jobs; returns a path for a backup."""
    _fill(core, artifacts)
    var_dir = Path(str(core.database.engine.url.database)).parent
    monkeypatch.setenv("RESNETD_VAR_DIR", str(var_dir))
    return var_dir / "backup"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_commands_refuse_what_would_lose_something(
    configured: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def run(*arguments: str) -> str:
        assert command.main(list(arguments)) == 1
        return capsys.readouterr().err

    assert command.main(["backup", str(configured)]) == 0
    assert "3 jobs, " in capsys.readouterr().out
    assert "restored to an empty database" in run("restore", str(configured))

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    assert "is not empty and has no backup" in run("backup", str(tmp_path / "full"))
    assert "has no complete backup" in run("restore", str(tmp_path / "full"))

    [saved] = configured.glob("database-*.db")
    saved.write_bytes(saved.read_bytes()[:-1])
    assert "is not the file that the backup wrote" in run("restore", str(configured))


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_artifacts_move_to_another_store(artifacts: ArtifactStore, tmp_path: Path) -> None:
    target = (tmp_path / "moved").as_uri()
    assert command.main(["migrate-artifacts", target]) == 0
    moved = ArtifactStore(target)
    assert [item.key for item in moved.list_prefix("")] == [
        item.key for item in artifacts.list_prefix("")
    ]
