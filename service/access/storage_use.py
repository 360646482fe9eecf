"""Bytes that are stored for people, groups and tags, counted where they are recorded; quotas.

What is stored is the checkpoints of their jobs, with their exports, as the rows of the checkpoints
say, and the images of datasets that they uploaded, as the files of the uploads say. So nothing has
to be kept equal: what a deletion or retention removes is not counted any more.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.access import people, quotas
from service.catalog import uploads
from service.errors import QuotaExceeded
from service.specs.quota import Quota, find_quota, list_keys
from service.storage.database import Lock, serialize
from service.storage.tables import CheckpointRow, JobRow, PersonRow
from service.storage.visibility import ALL_ROWS
from service.text import format_bytes

_MAX_LISTED = 10
_COUNTED = "resnetd_storage_use"


def count_bytes(session: Session, key: str, data_dir: Path) -> int:
    """`key`: of a quota, of one person, group or tag. Uploads have no tags."""
    kind, _, name = key.partition(":")
    users = [name] if kind == "user" else []
    if kind == "group":
        users = [*session.scalars(select(PersonRow.name).where(PersonRow.group == name))]
    statement = (
        select(func.sum(CheckpointRow.size_bytes))
        .join(JobRow, JobRow.id == CheckpointRow.job_id)
        .where(quotas.is_concerned(key))
    )
    in_checkpoints = session.scalar(statement.execution_options(**ALL_ROWS)) or 0
    return int(in_checkpoints) + uploads.count_bytes(data_dir, users)


@dataclass(frozen=True)
class StoredJob:
    id: str
    name: str
    stored_bytes: int


@dataclass(frozen=True)
class StorageUse:
    """Of a person. `limit_bytes`: of the person's own quota, or of `user:*`; None: no limit."""

    user: str
    checkpoint_bytes: int
    dataset_bytes: int
    limit_bytes: int | None
    largest_jobs: list[StoredJob]


def read_use(session: Session, user: str, data_dir: Path) -> StorageUse:
    """NotFound for an unknown person."""
    people.find_person(session, user)
    key = f"user:{user}"
    quota = find_quota(quotas.read_quotas(session), key)
    dataset_bytes = uploads.count_bytes(data_dir, [user])
    size = func.sum(CheckpointRow.size_bytes)
    largest = session.execute(
        select(JobRow.id, JobRow.name, size)
        .join(CheckpointRow, CheckpointRow.job_id == JobRow.id)
        .where(JobRow.user == user)
        .group_by(JobRow.id, JobRow.name)
        .order_by(size.desc(), JobRow.id)
        .limit(_MAX_LISTED)
        .execution_options(**ALL_ROWS)
    )
    return StorageUse(
        user=user,
        checkpoint_bytes=count_bytes(session, key, data_dir) - dataset_bytes,
        dataset_bytes=dataset_bytes,
        limit_bytes=None if quota is None else quota.stored_bytes,
        largest_jobs=[StoredJob(job_id, name, int(count)) for job_id, name, count in largest],
    )


def require_space(
    session: Session,
    user: str,
    tags: tuple[str, ...],
    known: dict[str, Quota],
    *,
    data_dir: Path,
    added_bytes: int = 1,
) -> None:
    """QuotaExceeded where `added_bytes` would exceed a quota of stored bytes.

    How many a job will store is not known: it needs one to begin. Once it runs, its
    checkpoints are stored in any case, as its retention says. In one transaction the bytes are
    counted once.
    """
    counted: dict[str, int] = session.info.setdefault(_COUNTED, {})
    for key, limit in _find_limits(session, user, tags, known):
        if key not in counted:
            serialize(session.connection(), Lock.USE_QUOTA)
            counted[key] = count_bytes(session, key, data_dir)
        if counted[key] + added_bytes > limit:
            more = f", and this needs {format_bytes(added_bytes)}" if added_bytes > 1 else ""
            raise QuotaExceeded(
                f"{key} stores {format_bytes(counted[key])} of {format_bytes(limit)}{more}; "
                "space becomes free when jobs or uploaded datasets are deleted, or when a "
                "running job's retention deletes checkpoints"
            )


def has_limit(known: Mapping[str, Quota]) -> bool:
    """Whether any quota limits stored bytes."""
    return any(quota.stored_bytes is not None for quota in known.values())


def find_exceeded(
    session: Session,
    user: str,
    tags: tuple[str, ...],
    known: dict[str, Quota],
    *,
    data_dir: Path,
    added_bytes: int,
) -> str | None:
    """The quota that the last `added_bytes` have exceeded, with limit and use."""
    for key, limit in _find_limits(session, user, tags, known):
        used = count_bytes(session, key, data_dir)
        if used - added_bytes <= limit < used:
            return f"{key} stores {format_bytes(used)} of {format_bytes(limit)}"
    return None


def _find_limits(
    session: Session, user: str, tags: tuple[str, ...], known: dict[str, Quota]
) -> Iterable[tuple[str, int]]:
    if not has_limit(known):
        return
    for key in list_keys(user, people.find_group(session, user), tags):
        quota = find_quota(known, key)
        if quota is not None and quota.stored_bytes is not None:
            yield key, quota.stored_bytes
