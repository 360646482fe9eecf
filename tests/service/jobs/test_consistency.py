"""The doctor: bytes without rows, rows without bytes, and what only looks like it."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from service import __main__ as command
from service.jobs import checkpoints, consistency
from service.jobs.consistency import Issue, IssueKind
from service.scheduling.leases import Claim
from service.specs.protocol import CheckpointManifest, PartDigest
from service.states import Reason
from service.storage import schema
from service.storage.artifacts import ArtifactStore
from service.storage.database import Database
from tests.support.core import Clock, Core, content, note

LATER = datetime.now(UTC) + timedelta(hours=2)


@pytest.fixture
def artifacts(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore((tmp_path / "artifacts").as_uri())


def _store(artifacts: ArtifactStore, claimed: Claim, iteration: int) -> CheckpointManifest:
    """Uploads the parts of a checkpoint; it counts once its note is reported."""

    async def bytes_of(digest: PartDigest) -> AsyncIterator[bytes]:
        yield content(digest.part, iteration)

    told = note(iteration)
    for digest in told.parts:
        key = checkpoints.artifact_key(claimed.attempt_id, iteration, digest.part, digest.sha256)

        async def write(key: str = key, digest: PartDigest = digest) -> None:
            await artifacts.write(key, bytes_of(digest), sha256=digest.sha256, max_bytes=1000)

        anyio.run(write)
    return told


def _found(core: Core, artifacts: ArtifactStore) -> list[Issue]:
    return consistency.check(core.database, artifacts, now=LATER)


def test_a_store_that_agrees_with_the_database_is_well(
    core: Core, artifacts: ArtifactStore
) -> None:
    claimed = core.run()
    core.report(claimed.attempt_id, 2, checkpoints=[_store(artifacts, claimed, 40)])
    core.end(claimed, Reason.DIVERGED)
    assert _found(core, artifacts) == []


def test_what_an_ended_attempt_uploaded_and_never_named_is_an_orphan(
    core: Core, artifacts: ArtifactStore
) -> None:
    claimed = core.run()
    _store(artifacts, claimed, 40)
    assert _found(core, artifacts) == [], "the attempt lives, its report may come"
    core.end(claimed, Reason.DIVERGED)
    assert consistency.check(core.database, artifacts, now=datetime.now(UTC)) == []
    found = _found(core, artifacts)
    assert {one.kind for one in found} == {IssueKind.ORPHAN}
    consistency.repair(core.database, artifacts, found)
    assert _found(core, artifacts) == []
    assert list(artifacts.list_prefix(checkpoints.ARTIFACT_PREFIX)) == []


def test_a_sweep_deletes_orphans_and_leaves_broken_checkpoints_to_people(
    core: Core, artifacts: ArtifactStore
) -> None:
    claimed = core.run()
    kept = _store(artifacts, claimed, 40)
    core.report(claimed.attempt_id, 2, checkpoints=[kept])
    _store(artifacts, claimed, 50)
    core.end(claimed, Reason.DIVERGED)
    key = checkpoints.artifact_key(claimed.attempt_id, 40, kept.parts[0].part, kept.parts[0].sha256)
    artifacts.delete([key])
    assert consistency.delete_orphans(core.database, artifacts, now=LATER) == 2
    (left,) = _found(core, artifacts)
    assert left.kind is IssueKind.MISSING


def test_a_checkpoint_whose_bytes_are_gone_is_found_and_forgotten(
    core: Core, artifacts: ArtifactStore
) -> None:
    claimed = core.run()
    told = _store(artifacts, claimed, 40)
    core.report(claimed.attempt_id, 2, checkpoints=[told])
    core.end(claimed, Reason.DIVERGED)
    key = checkpoints.artifact_key(claimed.attempt_id, 40, told.parts[0].part, told.parts[0].sha256)
    artifacts.delete([key])
    (found,) = _found(core, artifacts)
    assert (found.kind, found.key) == (IssueKind.MISSING, key)
    consistency.repair(core.database, artifacts, [found])
    (left,) = _found(core, artifacts)
    assert left.kind is IssueKind.ORPHAN, "the other part of the forgotten checkpoint"


def test_the_command_tells_and_repairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RESNETD_VAR_DIR", str(tmp_path))
    database = Database(f"sqlite:///{tmp_path / 'resnetd.db'}")
    schema.upgrade(database)
    core = Core(database, Clock())
    store = ArtifactStore((tmp_path / "artifacts").as_uri())
    claimed = core.run()
    told = _store(store, claimed, 40)
    core.report(claimed.attempt_id, 2, checkpoints=[told])
    assert command.main(["fsck"]) == 0
    store.delete_prefix(f"{checkpoints.ARTIFACT_PREFIX}/{claimed.attempt_id}/")
    assert command.main(["fsck"]) == 1
    assert "weights of job" in capsys.readouterr().out
    assert command.main(["fsck", "--repair"]) == 0
    assert command.main(["fsck"]) == 0
    database.close()
