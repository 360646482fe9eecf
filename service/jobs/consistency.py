"""The artifact store and the database, checked against each other both ways."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import select

from service.jobs import artifact_keys
from service.states import AttemptState
from service.storage.artifacts import ArtifactInfo, ArtifactStore
from service.storage.database import Database
from service.storage.tables import AttemptRow, CheckpointRow

# A part is uploaded before the report that names it is stored; the spool may hold that for long.
_ORPHAN_AGE = timedelta(hours=1)


class IssueKind(StrEnum):
    MISSING = "missing"  # a checkpoint counts, and a part of it is not there or has another size
    ORPHAN = "orphan"  # bytes that no checkpoint names


@dataclass(frozen=True)
class Issue:
    """`checkpoint_id` None for an orphan."""

    ailment: IssueKind
    key: str
    checkpoint_id: str | None
    message: str


def check(database: Database, artifacts: ArtifactStore, *, now: datetime) -> list[Issue]:
    """Changes nothing. What a living attempt has uploaded, or anybody lately, is no orphan."""
    stored = {one.key: one for one in artifacts.list_prefix(artifact_keys.CHECKPOINT_PREFIX)}
    with database.reading() as session:
        rows = session.scalars(select(CheckpointRow).order_by(CheckpointRow.id)).all()
        living = set(
            session.scalars(select(AttemptRow.id).where(AttemptRow.state != AttemptState.ENDED))
        )
    named = {part["key"] for row in rows for part in row.parts.values()}
    findings = _find_missing(
        database, artifacts, [row for row in rows if not _is_complete(row, stored)]
    )
    for key, one in sorted(stored.items()):
        is_settled = now - one.modified_at > _ORPHAN_AGE
        if key not in named and is_settled and artifact_keys.attempt_of_key(key) not in living:
            findings.append(
                Issue(IssueKind.ORPHAN, key, None, f"{one.size_bytes} bytes that nothing names")
            )
    return findings


def delete_orphans(database: Database, artifacts: ArtifactStore, *, now: datetime) -> int:
    """Deletes orphans, and how many: what attempts left that died between upload and report."""
    orphans = [
        one for one in check(database, artifacts, now=now) if one.ailment is IssueKind.ORPHAN
    ]
    repair(database, artifacts, orphans)
    return len(orphans)


def repair(database: Database, artifacts: ArtifactStore, findings: list[Issue]) -> None:
    """Forgets checkpoints that are not whole, then deletes orphans.

    What is left of a forgotten checkpoint is an orphan of the next examination.
    """
    broken = sorted({one.checkpoint_id for one in findings if one.checkpoint_id is not None})
    with database.transaction() as session:
        for checkpoint_id in broken:
            row = session.get(CheckpointRow, checkpoint_id)
            if row is not None:
                session.delete(row)
    artifacts.delete([one.key for one in findings if one.ailment is IssueKind.ORPHAN])


def _is_complete(row: CheckpointRow, stored: Mapping[str, ArtifactInfo]) -> bool:
    return all(
        part["key"] in stored and stored[part["key"]].size_bytes == part["size_bytes"]
        for part in row.parts.values()
    )


def _find_missing(
    database: Database, artifacts: ArtifactStore, suspects: list[CheckpointRow]
) -> list[Issue]:
    """Looks again: checkpoints come and go between the look at the store and at the rows."""
    findings = []
    for row in suspects:
        for name, part in row.parts.items():
            size = artifacts.size(part["key"])
            if size == part["size_bytes"]:
                continue
            there = "not there" if size is None else f"{size} bytes"
            where = f"{name} of job {row.job_id} at {row.iteration}"
            message = f"{where}: {there}, should be {part['size_bytes']} bytes"
            findings.append(Issue(IssueKind.MISSING, part["key"], row.id, message))
    with database.reading() as session:
        still_there = set(session.scalars(select(CheckpointRow.id)))
    return [one for one in findings if one.checkpoint_id in still_there]
