"""Bytes that are stored for people, groups and tags, counted where they are recorded; quotas.

What is stored is the checkpoints of their jobs, with their exports, as the rows of the checkpoints
say, and the images of datasets that they uploaded, as the files of the uploads say. So nothing has
to be kept equal: what a deletion or retention removes is not counted any more.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from service.access import people, quotas
from service.catalog import uploads
from service.errors import QuotaExceeded
from service.specs.quota import (
    ExceededQuota,
    Quota,
    find_quota,
    find_storage_limits,
    list_keys,
)
from service.storage.database import Lock, serialize
from service.storage.tables import CheckpointRow, JobRow, TagRow
from service.storage.visibility import ALL_ROWS
from service.text import format_bytes

_MAX_LISTED = 10
_COUNTED = "resnetd_storage_use"


def count_bytes(session: Session, keys: Iterable[str], data_dir: Path) -> dict[str, int]:
    """By key, each of one person, group or tag. Uploads have no tags."""
    keys = list(keys)
    has_group = any(key.startswith("group:") for key in keys)
    groups = people.read_groups(session) if has_group else {}
    users_of, tags = dict[str, list[str]](), []
    for key in keys:
        kind, _, name = key.partition(":")
        if kind == "tag":
            tags.append(name)
        else:
            members = [user for user, group in groups.items() if group == name]
            users_of[key] = [name] if kind == "user" else members
    by_tag = _sum_by(session, TagRow.tag, TagRow.job_id, tags)
    counted = {f"tag:{tag}": by_tag[tag] for tag in tags}
    if users_of:
        users = set(chain.from_iterable(users_of.values()))
        by_user = _sum_by(session, JobRow.user, JobRow.id, users)
        by_user.update(uploads.count_bytes(data_dir))
        counted |= {key: sum(by_user[user] for user in users_of[key]) for key in users_of}
    return counted


def count_all_checkpoints(session: Session) -> int:
    """Bytes of the checkpoints of all jobs."""
    return int(session.scalar(select(func.sum(CheckpointRow.size_bytes))) or 0)


def _sum_by(
    session: Session,
    column: InstrumentedAttribute[str],
    job_id: InstrumentedAttribute[str],
    names: Collection[str],
) -> Counter[str]:
    """Bytes of checkpoints, by the owners or tags of their jobs."""
    if not names:
        return Counter()
    statement = (
        select(column, func.sum(CheckpointRow.size_bytes))
        .select_from(CheckpointRow)
        .join(column.class_, job_id == CheckpointRow.job_id)
        .where(column.in_(names))
        .group_by(column)
    )
    rows = session.execute(statement.execution_options(**ALL_ROWS))
    return Counter({name: int(size) for name, size in rows})


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
    quota = find_quota(quotas.read_quotas(session), f"user:{user}")
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
        checkpoint_bytes=_sum_by(session, JobRow.user, JobRow.id, [user])[user],
        dataset_bytes=uploads.count_bytes(data_dir)[user],
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

    How many a job will store is not known: it needs one to be submitted, and one to begin. Once
    it has stored a checkpoint, it stores others in any case, as its retention says. In one
    transaction the bytes are counted once.
    """
    limits = _find_limits(session, user, tags, known)
    counted: dict[str, int] = session.info.setdefault(_COUNTED, {})
    if new := limits.keys() - counted.keys():
        serialize(session.connection(), Lock.USE_QUOTA)
        counted |= count_bytes(session, new, data_dir)
    for key, limit in limits.items():
        if counted[key] + added_bytes > limit:
            raise QuotaExceeded(
                explain_full(
                    ExceededQuota(key, "stored_bytes", counted[key], limit), added_bytes=added_bytes
                )
            )


def explain_full(exceeded: ExceededQuota, *, added_bytes: int = 1) -> str:
    """Limit, use and what frees space, of a quota of stored bytes."""
    used, limit = format_bytes(int(exceeded.used)), format_bytes(int(exceeded.limit))
    more = f", and this needs {format_bytes(added_bytes)}" if added_bytes > 1 else ""
    return (
        f"{exceeded.key} stores {used} of {limit}{more}; space becomes free when jobs or uploaded "
        "datasets are deleted, or when a running job's retention deletes checkpoints"
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
    limits = _find_limits(session, user, tags, known)
    counted = count_bytes(session, limits, data_dir)
    for key, limit in limits.items():
        used = counted[key]
        if used - added_bytes <= limit < used:
            return f"{key} stores {format_bytes(used)} of {format_bytes(limit)}"
    return None


def _find_limits(
    session: Session, user: str, tags: tuple[str, ...], known: dict[str, Quota]
) -> dict[str, int]:
    if not has_limit(known):
        return {}
    return find_storage_limits(known, list_keys(user, people.find_group(session, user), tags))
