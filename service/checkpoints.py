"""Checkpoints: record, newest, best, retention. The bytes lie in the artifact store."""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from service import events, ids
from service.artifacts import ArtifactStore
from service.errors import InvalidInput, NotFound
from service.events import EventKind
from service.reports import CheckpointNote, Part
from service.tables import AttemptRow, CheckpointRow, JobRow

REQUIRED_PARTS = frozenset({Part.WEIGHTS, Part.STATE})


PREFIX = "checkpoints"


def key(attempt_id: str, iteration: int, part: Part, sha256: str) -> str:
    """Where a part lies: no two attempts and no two contents share a key."""
    return f"{PREFIX}/{attempt_id}/{iteration:09d}-{part}-{sha256[:16]}"


def delete_bytes(artifacts: ArtifactStore, attempt_ids: Iterable[str]) -> None:
    """All that these attempts have stored; after the commit that forgets the attempts."""
    for attempt_id in attempt_ids:
        artifacts.delete_below(f"{PREFIX}/{attempt_id}/")


def attempt_of(key: str) -> str:
    """The id of the attempt that wrote there."""
    return key.split("/")[1]


def record(
    session: Session, job: JobRow, attempt: AttemptRow, note: CheckpointNote, *, now: datetime
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
                "key": key(attempt.id, note.iteration, digest.part, digest.sha256),
                "sha256": digest.sha256,
                "size_bytes": digest.size_bytes,
            }
            for digest in note.parts
        },
    )
    session.add(checkpoint)
    session.flush()
    job.saved_iteration = max(job.saved_iteration, note.iteration)
    data = {
        "id": checkpoint.id,
        "iteration": note.iteration,
        "test_error": note.test_error,
        "train_error": note.train_error,
    }
    events.append(session, job, EventKind.CHECKPOINT, data, now=now)
    return checkpoint


def of_job(session: Session, job_id: str) -> list[CheckpointRow]:
    """Newest first: by iteration, and of one iteration the later attempt's."""
    statement = (
        select(CheckpointRow)
        .where(CheckpointRow.job_id == job_id)
        .order_by(CheckpointRow.iteration.desc(), CheckpointRow.attempt.desc())
    )
    return list(session.scalars(statement))


def newest(session: Session, job_id: str) -> CheckpointRow | None:
    return next(iter(of_job(session, job_id)), None)


def choose(session: Session, job_id: str, which: str) -> CheckpointRow:
    """`newest`, `best` (least test error, the earliest of equals) or an id. NotFound else."""
    known = of_job(session, job_id)
    if which == "newest" and known:
        return known[0]
    if which == "best" and known:
        return best(known)
    for checkpoint in known:
        if checkpoint.id == which:
            return checkpoint
    raise NotFound(f"job {job_id} has no checkpoint {which!r}; it has {len(known)}")


def best(checkpoints: list[CheckpointRow]) -> CheckpointRow:
    """Of a non-empty list. Where nothing was measured, the newest."""
    measured = [
        (row.test_error, row.iteration, row) for row in checkpoints if row.test_error is not None
    ]
    if not measured:
        return checkpoints[0]
    return min(measured, key=lambda entry: entry[:2])[2]
