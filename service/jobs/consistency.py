"""Consistency check (fsck) of the artifact store and the database against each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import select

from service.jobs import checkpoints
from service.states import AttemptState
from service.storage.artifacts import ArtifactInfo, ArtifactStore
from service.storage.database import Database
from service.storage.tables import AttemptRow, CheckpointRow
from service.text import count_of

# A part is uploaded before the report that refers to it, which a worker may spool for a while.
_MIN_ORPHAN_AGE = timedelta(hours=1)


class IssueKind(StrEnum):
    MISSING = "missing"  # a checkpoint's file does not exist or has another size
    ORPHAN = "orphan"  # no checkpoint refers to the artifact


@dataclass(frozen=True)
class Issue:
    """`checkpoint_id` None for an orphan."""

    kind: IssueKind
    key: str
    checkpoint_id: str | None
    message: str


def check(database: Database, artifacts: ArtifactStore, *, now: datetime) -> list[Issue]:
    """Changes nothing. Artifacts of active attempts and recent ones are not orphans."""
    stored = {
        artifact.key: artifact for artifact in artifacts.list_prefix(checkpoints.ARTIFACT_PREFIX)
    }
    with database.reading() as session:
        rows = session.scalars(select(CheckpointRow).order_by(CheckpointRow.id)).all()
        active = set(
            session.scalars(select(AttemptRow.id).where(AttemptRow.state != AttemptState.ENDED))
        )
    incomplete = [row for row in rows if not _is_complete(row, stored)]
    issues = _find_missing(database, artifacts, incomplete)
    referenced = {file.key for row in rows for file in checkpoints.files_of(row).values()}
    for key, artifact in sorted(stored.items()):
        is_old = now - artifact.modified_at > _MIN_ORPHAN_AGE
        if key not in referenced and is_old and checkpoints.attempt_id_of_key(key) not in active:
            message = f"no checkpoint refers to these {count_of(artifact.size_bytes, 'byte')}"
            issues.append(Issue(IssueKind.ORPHAN, key, None, message))
    return issues


def delete_orphans(database: Database, artifacts: ArtifactStore, *, now: datetime) -> int:
    """Deletes what attempts uploaded and never reported. Returns the number of artifacts."""
    issues = check(database, artifacts, now=now)
    orphans = [issue for issue in issues if issue.kind is IssueKind.ORPHAN]
    repair(database, artifacts, orphans)
    return len(orphans)


def repair(database: Database, artifacts: ArtifactStore, issues: list[Issue]) -> None:
    """Deletes the rows of incomplete checkpoints, then orphans.

    The remaining files of an incomplete checkpoint are orphans for the next check.
    """
    incomplete = {issue.checkpoint_id for issue in issues if issue.checkpoint_id is not None}
    with database.transaction() as session:
        for checkpoint_id in sorted(incomplete):
            row = session.get(CheckpointRow, checkpoint_id)
            if row is not None:
                session.delete(row)
    artifacts.delete([issue.key for issue in issues if issue.kind is IssueKind.ORPHAN])


def _is_complete(row: CheckpointRow, stored: Mapping[str, ArtifactInfo]) -> bool:
    return all(
        file.key in stored and stored[file.key].size_bytes == file.size_bytes
        for file in checkpoints.files_of(row).values()
    )


def _find_missing(
    database: Database, artifacts: ArtifactStore, suspects: list[CheckpointRow]
) -> list[Issue]:
    """Checks again: retention may have deleted a checkpoint since the store was listed."""
    issues = []
    for row in suspects:
        for part, file in checkpoints.files_of(row).items():
            size_bytes = artifacts.size(file.key)
            if size_bytes == file.size_bytes:
                continue
            found = (
                "does not exist" if size_bytes is None else f"has {count_of(size_bytes, 'byte')}"
            )
            message = (
                f"part {part} of job {row.job_id} at iteration {row.iteration} {found}; "
                f"expected {count_of(file.size_bytes, 'byte')}"
            )
            issues.append(Issue(IssueKind.MISSING, file.key, row.id, message))
    with database.reading() as session:
        existing = set(session.scalars(select(CheckpointRow.id)))
    return [issue for issue in issues if issue.checkpoint_id in existing]
