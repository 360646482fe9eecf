"""Checkpoints: their rows, and the keys of their files in the artifact store."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service import ids
from service.errors import Conflict, InvalidInput, NotFound
from service.specs.protocol import CheckpointManifest
from service.states import CheckpointPart
from service.storage import events
from service.storage.artifacts import ArtifactStore
from service.storage.events import EventKind
from service.storage.tables import AttemptRow, CheckpointRow, JobRow

ARTIFACT_PREFIX = "checkpoints"
_REQUIRED_PARTS = frozenset({CheckpointPart.WEIGHTS, CheckpointPart.STATE})


@dataclass(frozen=True)
class CheckpointFile:
    """A part of a checkpoint; `key` is the artifact store's."""

    key: str
    sha256: str
    size_bytes: int


def artifact_key(attempt_id: str, iteration: int, part: CheckpointPart, sha256: str) -> str:
    """The key of a part in the artifact store: it differs by attempt and by content."""
    return f"{ARTIFACT_PREFIX}/{attempt_id}/{iteration:09d}-{part}-{sha256[:16]}"


def attempt_id_of_key(key: str) -> str:
    """The id of the attempt that uploaded the artifact."""
    return key.split("/")[1]


def delete_artifacts(artifacts: ArtifactStore, attempt_ids: Iterable[str]) -> None:
    """Deletes all uploads of attempts. Call it after the commit that deletes their rows."""
    for attempt_id in attempt_ids:
        artifacts.delete_prefix(f"{ARTIFACT_PREFIX}/{attempt_id}/")


def record_checkpoint(
    session: Session,
    job: JobRow,
    attempt: AttemptRow,
    manifest: CheckpointManifest,
    *,
    now: datetime,
) -> CheckpointRow:
    """Makes an uploaded checkpoint count; repeated, returns the same row.

    The caller has checked that the artifact store has all its files. InvalidInput where a required
    part is missing.
    """
    received = {digest.part for digest in manifest.parts}
    if not received >= _REQUIRED_PARTS:
        raise InvalidInput(
            f"a checkpoint needs the parts {', '.join(sorted(_REQUIRED_PARTS))}; "
            f"received {', '.join(sorted(received)) or 'none'}"
        )
    known = session.scalar(
        select(CheckpointRow).where(
            CheckpointRow.job_id == job.id,
            CheckpointRow.attempt == attempt.number,
            CheckpointRow.iteration == manifest.iteration,
        )
    )
    if known is not None:
        return known
    files = files_of_manifest(attempt.id, manifest)
    checkpoint = CheckpointRow(
        id=ids.new_id(now),
        job_id=job.id,
        attempt=attempt.number,
        iteration=manifest.iteration,
        created_at=now,
        test_error=manifest.test_error,
        selection_error=manifest.selection_error,
        train_error=manifest.train_error,
        size_bytes=sum(file.size_bytes for file in files.values()),
        parts={part.value: asdict(file) for part, file in files.items()},
    )
    session.add(checkpoint)
    session.flush()
    job.checkpointed_iteration = max(job.checkpointed_iteration, manifest.iteration)
    data = {
        "id": checkpoint.id,
        "iteration": manifest.iteration,
        "test_error": manifest.test_error,
        "train_error": manifest.train_error,
    }
    events.append_event(session, job, EventKind.CHECKPOINT, data, now=now)
    return checkpoint


def files_of_manifest(
    attempt_id: str, manifest: CheckpointManifest
) -> dict[CheckpointPart, CheckpointFile]:
    """The files that the attempt must have uploaded."""
    return {
        digest.part: CheckpointFile(
            key=artifact_key(attempt_id, manifest.iteration, digest.part, digest.sha256),
            sha256=digest.sha256,
            size_bytes=digest.size_bytes,
        )
        for digest in manifest.parts
    }


def files_of(checkpoint: CheckpointRow) -> dict[CheckpointPart, CheckpointFile]:
    return {CheckpointPart(part): CheckpointFile(**file) for part, file in checkpoint.parts.items()}


def find_file(session: Session, checkpoint: CheckpointRow, part: CheckpointPart) -> CheckpointFile:
    """NotFound where the checkpoint was stored without that part; it names one that has it."""
    files = files_of(checkpoint)
    if part in files:
        return files[part]
    message = f"checkpoint {checkpoint.id} has no part {part}; it has {', '.join(sorted(files))}"
    others = [row for row in list_checkpoints(session, checkpoint.job_id) if part in row.parts]
    if others:
        message += f"; checkpoint {others[0].id} of iteration {others[0].iteration} has it"
    else:
        message += (
            "; no checkpoint of the job has it: it is written at the end of the training, an "
            "export only if recipe.exports has its name"
        )
    raise NotFound(message)


def find_export(session: Session, job: JobRow, part: CheckpointPart) -> CheckpointRow:
    """The newest checkpoint with the part, which only a finished training exports. Conflict."""
    for row in list_checkpoints(session, job.id):
        if part in row.parts:
            return row
    if job.state.is_final:
        reason = f"a training exports {part} at its end if recipe.exports has that name"
    else:
        reason = f"it is {job.state}, and its network is exported at its end"
    raise Conflict(f"job {job.id} has no exported network {part}: {reason}")


def list_checkpoints(session: Session, job_id: str) -> list[CheckpointRow]:
    """Newest first: by iteration, of one iteration the later attempt first."""
    statement = (
        select(CheckpointRow)
        .where(CheckpointRow.job_id == job_id)
        .order_by(CheckpointRow.iteration.desc(), CheckpointRow.attempt.desc())
    )
    return list(session.scalars(statement))


def count_bytes(session: Session, job_id: str) -> int:
    """Of all parts of the job's checkpoints."""
    total = select(func.sum(CheckpointRow.size_bytes)).where(CheckpointRow.job_id == job_id)
    return int(session.scalar(total) or 0)


def find_newest(session: Session, job_id: str) -> CheckpointRow | None:
    return next(iter(list_checkpoints(session, job_id)), None)


def find_checkpoint(session: Session, job_id: str, selector: str) -> CheckpointRow:
    """`newest`, `best` (least selection error, the earliest of equals) or an id. NotFound."""
    checkpoints = list_checkpoints(session, job_id)
    if selector == "newest" and checkpoints:
        return checkpoints[0]
    if selector == "best" and checkpoints:
        return pick_best(checkpoints)
    for checkpoint in checkpoints:
        if checkpoint.id == selector:
            return checkpoint
    if not checkpoints:
        is_final = session.get_one(JobRow, job_id).state.is_final
        raise NotFound(f"job {job_id} has no checkpoint{'' if is_final else ' yet'}")
    raise NotFound(f"job {job_id} has no checkpoint {selector!r}; it has {len(checkpoints)}")


def pick_best(newest_first: list[CheckpointRow]) -> CheckpointRow:
    """Of a list that is not empty. The newest where the recipe selects by no error."""
    measured = [
        (row.selection_error, row.iteration, row)
        for row in newest_first
        if row.selection_error is not None
    ]
    if not measured:
        return newest_first[0]
    return min(measured, key=lambda entry: entry[:2])[2]
