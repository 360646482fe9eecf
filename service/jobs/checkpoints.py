"""Checkpoints: record, newest, best, retention. The bytes lie in the artifact store."""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import ids
from service.errors import InvalidInput, NotFound
from service.jobs import (
    artifact_keys,
    events,
)
from service.jobs.events import EventKind
from service.specs.protocol import CheckpointManifest
from service.states import CheckpointPart
from service.storage.artifacts import ArtifactStore
from service.storage.tables import AttemptRow, CheckpointRow, JobRow

REQUIRED_PARTS = frozenset({CheckpointPart.WEIGHTS, CheckpointPart.STATE})


def delete_artifacts(artifacts: ArtifactStore, attempt_ids: Iterable[str]) -> None:
    """All that these attempts have stored; after the commit that forgets the attempts."""
    for attempt_id in attempt_ids:
        artifacts.delete_prefix(f"{artifact_keys.CHECKPOINT_PREFIX}/{attempt_id}/")


def record_checkpoint(
    session: Session, job: JobRow, attempt: AttemptRow, note: CheckpointManifest, *, now: datetime
) -> CheckpointRow:
    """From here on the checkpoint counts. The caller has seen that all its bytes are there."""
    if not {digest.part for digest in note.parts} >= REQUIRED_PARTS:
        raise InvalidInput(f"a checkpoint has {', '.join(sorted(REQUIRED_PARTS))}")
    known = session.scalar(
        select(CheckpointRow).where(
            CheckpointRow.job_id == job.id,
            CheckpointRow.attempt == attempt.number,
            CheckpointRow.iteration == note.iteration,
        )
    )
    if known is not None:
        return known
    checkpoint = CheckpointRow(
        id=ids.new_id(now),
        job_id=job.id,
        attempt=attempt.number,
        iteration=note.iteration,
        created_at=now,
        test_error=note.test_error,
        train_error=note.train_error,
        parts={
            digest.part.value: {
                "key": artifact_keys.checkpoint_key(
                    attempt.id, note.iteration, digest.part, digest.sha256
                ),
                "sha256": digest.sha256,
                "size_bytes": digest.size_bytes,
            }
            for digest in note.parts
        },
    )
    session.add(checkpoint)
    session.flush()
    job.checkpointed_iteration = max(job.checkpointed_iteration, note.iteration)
    data = {
        "id": checkpoint.id,
        "iteration": note.iteration,
        "test_error": note.test_error,
        "train_error": note.train_error,
    }
    events.append_event(session, job, EventKind.CHECKPOINT, data, now=now)
    return checkpoint


def list_checkpoints(session: Session, job_id: str) -> list[CheckpointRow]:
    """Newest first: by iteration, and of one iteration the later attempt's."""
    statement = (
        select(CheckpointRow)
        .where(CheckpointRow.job_id == job_id)
        .order_by(CheckpointRow.iteration.desc(), CheckpointRow.attempt.desc())
    )
    return list(session.scalars(statement))


def find_newest(session: Session, job_id: str) -> CheckpointRow | None:
    return next(iter(list_checkpoints(session, job_id)), None)


def select_checkpoint(session: Session, job_id: str, which: str) -> CheckpointRow:
    """`newest`, `best` (least test error, the earliest of equals) or an id. NotFound else."""
    known = list_checkpoints(session, job_id)
    if which == "newest" and known:
        return known[0]
    if which == "best" and known:
        return pick_best(known)
    for checkpoint in known:
        if checkpoint.id == which:
            return checkpoint
    raise NotFound(f"job {job_id} has no checkpoint {which!r}; it has {len(known)}")


def pick_best(checkpoints: list[CheckpointRow]) -> CheckpointRow:
    """Of a non-empty list. Where nothing was measured, the newest."""
    measured = [
        (row.test_error, row.iteration, row) for row in checkpoints if row.test_error is not None
    ]
    if not measured:
        return checkpoints[0]
    return min(measured, key=lambda entry: entry[:2])[2]


def part_key(checkpoint: CheckpointRow, part: CheckpointPart) -> str:
    """NotFound where the checkpoint was stored without that part."""
    entry = checkpoint.parts.get(part.value)
    if entry is None:
        there = ", ".join(sorted(checkpoint.parts))
        raise NotFound(f"checkpoint {checkpoint.id} has no {part}; it has {there}")
    return str(entry["key"])
