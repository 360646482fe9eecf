"""The consistency check: artifacts without rows, and rows without artifacts."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service import __main__ as command
from service.jobs import checkpoints, consistency
from service.jobs.consistency import Issue, IssueKind
from service.states import Reason
from service.storage import schema
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database
from tests.support.core import Clock, Core, store_checkpoint

LATER = datetime.now(UTC) + timedelta(hours=2)


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore((tmp_path / "artifacts").as_uri())


def _found(core: Core, artifacts: ArtifactStore) -> list[Issue]:
    return consistency.check(core.database, artifacts, now=LATER)


def test_a_consistent_store_has_no_issues(core: Core, artifacts: ArtifactStore) -> None:
    claimed = core.run()
    core.report(claimed.attempt_id, 2, checkpoints=[store_checkpoint(artifacts, claimed, 40)])
    core.end(claimed, Reason.DIVERGED)
    assert _found(core, artifacts) == []


def test_an_unreported_upload_of_an_ended_attempt_is_an_orphan(
    core: Core, artifacts: ArtifactStore
) -> None:
    claimed = core.run()
    store_checkpoint(artifacts, claimed, 40)
    assert _found(core, artifacts) == [], "the attempt may still report it"
    core.end(claimed, Reason.DIVERGED)
    assert consistency.check(core.database, artifacts, now=datetime.now(UTC)) == []
    found = _found(core, artifacts)
    assert {issue.kind for issue in found} == {IssueKind.ORPHAN}
    consistency.repair(core.database, artifacts, found)
    assert _found(core, artifacts) == []
    assert list(artifacts.list_prefix(checkpoints.ARTIFACT_PREFIX)) == []


def test_deleting_orphans_keeps_incomplete_checkpoints(
    core: Core, artifacts: ArtifactStore
) -> None:
    claimed = core.run()
    kept = store_checkpoint(artifacts, claimed, 40)
    core.report(claimed.attempt_id, 2, checkpoints=[kept])
    store_checkpoint(artifacts, claimed, 50)
    core.end(claimed, Reason.DIVERGED)
    (file, *_) = checkpoints.files_of_manifest(claimed.attempt_id, kept).values()
    artifacts.delete([file.key])
    assert consistency.delete_orphans(core.database, artifacts, now=LATER) == 2
    (left,) = _found(core, artifacts)
    assert left.kind is IssueKind.MISSING


def test_a_checkpoint_with_a_missing_file_is_found_and_deleted(
    core: Core, artifacts: ArtifactStore
) -> None:
    claimed = core.run()
    manifest = store_checkpoint(artifacts, claimed, 40)
    core.report(claimed.attempt_id, 2, checkpoints=[manifest])
    core.end(claimed, Reason.DIVERGED)
    (file, *_) = checkpoints.files_of_manifest(claimed.attempt_id, manifest).values()
    artifacts.delete([file.key])
    (found,) = _found(core, artifacts)
    assert (found.kind, found.key) == (IssueKind.MISSING, file.key)
    consistency.repair(core.database, artifacts, [found])
    (left,) = _found(core, artifacts)
    assert left.kind is IssueKind.ORPHAN, "the other part of the deleted checkpoint"


def test_the_fsck_command_prints_and_repairs_issues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RESNETD_VAR_DIR", str(tmp_path))
    database = Database(f"sqlite:///{tmp_path / 'resnetd.db'}")
    schema.upgrade(database)
    core = Core(database, Clock())
    store = ArtifactStore((tmp_path / "artifacts").as_uri())
    claimed = core.run()
    manifest = store_checkpoint(store, claimed, 40)
    core.report(claimed.attempt_id, 2, checkpoints=[manifest])
    assert command.main(["fsck"]) == 0
    store.delete_prefix(f"{checkpoints.ARTIFACT_PREFIX}/{claimed.attempt_id}/")
    assert command.main(["fsck"]) == 1
    assert "weights of job" in capsys.readouterr().out
    assert command.main(["fsck", "--repair"]) == 0
    assert command.main(["fsck"]) == 0
    database.close()
