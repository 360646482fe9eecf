"""Quotas of people, groups and tags, changed at run time; `user:*`, ... are for all others."""

from datetime import datetime

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from service.access import people, usage
from service.errors import NotFound, QuotaExceeded
from service.specs.quota import (
    ExceededQuota,
    Quota,
    find_quota,
    find_used_up,
    list_keys,
    list_limited_in_hours,
)
from service.states import WAITING_STATES
from service.storage import changes
from service.storage.database import Lock, serialize
from service.storage.tables import JobRow, PersonRow, QuotaRow, TagRow
from service.text import format_number, plural


def read_quotas(session: Session) -> dict[str, Quota]:
    """All, by key."""
    rows = session.scalars(select(QuotaRow).order_by(QuotaRow.key))
    return {row.key: Quota.model_validate(row) for row in rows}


def set_quota(session: Session, key: str, quota: Quota) -> None:
    """Also wakes the dispatchers: a job may start now."""
    session.merge(QuotaRow(key=key, **quota.model_dump()))
    changes.notify(session, "quotas")


def delete_quota(session: Session, key: str) -> None:
    row = session.get(QuotaRow, key)
    if row is None:
        raise NotFound(f"no quota {key!r}")
    session.execute(delete(QuotaRow).where(QuotaRow.key == key))
    changes.notify(session, "quotas")


def require_place(
    session: Session,
    user: str,
    tags: tuple[str, ...],
    quotas: dict[str, Quota],
    *,
    uses_gpus: bool,
    now: datetime,
) -> None:
    """QuotaExceeded where another waiting job would exceed one of `quotas`, or hours are used up.

    Submissions that a quota of waiting jobs concerns come one after the other.
    """
    if not quotas:
        return
    keys = list_keys(user, people.find_group(session, user), tags)
    limited = list_limited_in_hours(quotas, keys)
    hours = usage.read_usage(session, limited, now=now)
    exceeded = find_used_up(quotas, limited, hours, uses_gpus=uses_gpus)
    if exceeded is not None:
        raise QuotaExceeded(explain_used_up(session, exceeded, now=now))
    limits = {
        key: quota.waiting
        for key in keys
        if (quota := find_quota(quotas, key)) is not None and quota.waiting is not None
    }
    if limits:
        serialize(session.connection(), Lock.USE_QUOTA)
    for key, limit in limits.items():
        used = _count_waiting(session, key)
        if used >= limit:
            jobs = plural(limit, "job")
            raise QuotaExceeded(
                f"{key} has {used} of {limit} waiting {jobs}; "
                "a place becomes free when one of them starts or is cancelled"
            )


def explain_used_up(session: Session, exceeded: ExceededQuota, *, now: datetime) -> str:
    """Limit, use and when it frees, of a quota of hours."""
    key, kind, limit = exceeded.key, exceeded.kind, exceeded.limit
    hours = {"core_hours": "core-hours", "gpu_hours": "GPU-hours"}[kind]
    used, permitted = format_number(exceeded.used), format_number(limit, digits=6)
    message = f"{key} has used {used} of {permitted} {hours} in the last 7 days"
    frees_at = usage.find_free_time(session, key, kind=kind, limit=limit, now=now)
    return (
        message
        if frees_at is None
        else f"{message}; some are free from {frees_at:%Y-%m-%d %H:%M} UTC on"
    )


def is_concerned(key: str) -> ColumnElement[bool]:
    """Whether a job counts for the key: of this person, of a person of this group, or tagged."""
    kind, _, name = key.partition(":")
    if kind == "user":
        return JobRow.user == name
    if kind == "group":
        return JobRow.user.in_(select(PersonRow.name).where(PersonRow.group == name))
    return JobRow.id.in_(select(TagRow.job_id).where(TagRow.tag == name))


def _count_waiting(session: Session, key: str) -> int:
    is_waiting = JobRow.state.in_(WAITING_STATES)
    return session.scalar(select(func.count()).where(is_waiting, is_concerned(key))) or 0
