"""The consistency check: artifacts without rows, and rows without artifacts."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from service import __main__ as command
from service.jobs import checkpoints, consistency
from service.jobs.checkpoints import CheckpointFile
from service.jobs.consistency import Issue, IssueKind
from service.scheduling.leases import Claim
from service.specs.protocol import CheckpointManifest
from service.states import CheckpointPart, Reason
from service.storage import schema
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database
from tests.support.core import Clock, Core, content, note

LATER = datetime.now(UTC) + timedelta(hours=2)


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore((tmp_path / "artifacts").as_uri())


def _store(artifacts: ArtifactStore, claimed: Claim, iteration: int) -> CheckpointManifest:
    """Uploads the parts of a checkpoint; it counts once its manifest is reported."""

    async def bytes_of(part: CheckpointPart) -> AsyncIterator[bytes]:
        yield content(part, iteration)

    manifest = note(iteration)
    for part, file in checkpoints.files_of_manifest(claimed.attempt_id, manifest).items():

        async def write(part: CheckpointPart = part, file: CheckpointFile = file) -> None:
            await artifacts.write(file.key, bytes_of(part), sha256=file.sha256, max_bytes=1000)

        anyio.run(write)
    return manifest


def _found(core: Core, artifacts: ArtifactStore) -> list[Issue]:
    return consistency.check(core.database, artifacts, now=LATER)


def test_a_consistent_store_has_no_issues(core: Core, artifacts: ArtifactStore) -> None:
    claimed = core.run()
    core.report(claimed.attempt_id, 2, checkpoints=[_store(artifacts, claimed, 40)])
    core.end(claimed, Reason.DIVERGED)
    assert _found(core, artifacts) == []


def test_an_unreported_upload_of_an_ended_attempt_is_an_orphan(
    core: Core, artifacts: ArtifactStore
) -> None:
    claimed = core.run()
    _store(artifacts, claimed, 40)
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
    kept = _store(artifacts, claimed, 40)
    core.report(claimed.attempt_id, 2, checkpoints=[kept])
    _store(artifacts, claimed, 50)
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
    manifest = _store(artifacts, claimed, 40)
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
    manifest = _store(store, claimed, 40)
    core.report(claimed.attempt_id, 2, checkpoints=[manifest])
    assert command.main(["fsck"]) == 0
    store.delete_prefix(f"{checkpoints.ARTIFACT_PREFIX}/{claimed.attempt_id}/")
    assert command.main(["fsck"]) == 1
    assert "weights of job" in capsys.readouterr().out
    assert command.main(["fsck", "--repair"]) == 0
    assert command.main(["fsck"]) == 0
    database.close()
