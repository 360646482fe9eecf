"""Usage: the core-hours and GPU-hours of people, groups and tags, counted from attempts.

An attempt uses its resources from its claim until they are free. That is recorded once, in the
transaction that frees them; until then it is added to what is recorded. So the deletion of a job
changes nothing. Quotas read sums by hour, and fair share sums that decay with a half-life.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from service.access import people
from service.resources import ResourceHours
from service.specs.fair_share import FairShare, accumulate, decay
from service.specs.quota import list_keys
from service.storage.database import Lock, serialize
from service.storage.tables import (
    AttemptRow,
    FairShareRow,
    JobRow,
    TagRow,
    UsageHourRow,
    UsageRow,
)
from service.storage.visibility import ALL_ROWS

# Quotas of hours count this hour and those before it: seven days in total.
WINDOW_HOURS = 7 * 24
_HOUR = 3600
FAIR_SHARE_ID = 1


def record_usage(session: Session, attempt: AttemptRow, *, now: datetime) -> None:
    """Of an attempt whose resources become free now. Others wait until the transaction ends."""
    user = session.scalar(
        select(JobRow.user).where(JobRow.id == attempt.job_id).execution_options(**ALL_ROWS)
    )
    assert user is not None, "jobs are deleted after their resources are free"
    tags = session.scalars(select(TagRow.tag).where(TagRow.job_id == attempt.job_id)).all()
    keys = list_keys(user, people.find_group(session, user), tuple(tags))
    serialize(session.connection(), Lock.RECORD_USAGE)
    for hour, used in _split_by_hour(attempt, now=now):
        for key in keys:
            row = session.get(UsageHourRow, (key, hour))
            if row is None:
                row = UsageHourRow(key=key, hour=hour, core_hours=0.0, gpu_hours=0.0)
                session.add(row)
            row.core_hours += used.core_hours
            row.gpu_hours += used.gpu_hours
    half_life_days = read_fair_share(session).half_life_days
    seconds = (now - attempt.created_at).total_seconds()
    added = accumulate(*resources_of(attempt), seconds, half_life_days)
    for key in keys:
        if not key.startswith("tag:"):
            _add_decayed(session, key, added, half_life_days, now=now)
    session.flush()


def read_usage(
    session: Session, keys: Collection[str], *, now: datetime
) -> dict[str, ResourceHours]:
    """Of the last seven days, with what runs; only keys that have used anything."""
    if not keys:
        return {}
    found: defaultdict[str, ResourceHours] = defaultdict(ResourceHours)
    rows = session.execute(
        select(
            UsageHourRow.key, func.sum(UsageHourRow.core_hours), func.sum(UsageHourRow.gpu_hours)
        )
        .where(UsageHourRow.key.in_(keys), UsageHourRow.hour > _hour_of(now) - WINDOW_HOURS)
        .group_by(UsageHourRow.key)
    )
    for key, core_hours, gpu_hours in rows:
        found[key] += ResourceHours(core_hours, gpu_hours)
    for attempt in list_running(session):
        for _, used in _split_by_hour(attempt.row, now=now):
            for key in attempt.keys:
                if key in keys:
                    found[key] += used
    return dict(found)


def find_free_time(
    session: Session, key: str, *, kind: str, limit: float, now: datetime
) -> datetime | None:
    """When the use of `kind`, core_hours or gpu_hours, is below the limit if nothing is added.

    None where that is never, with a limit of 0.
    """
    by_hour: defaultdict[int, float] = defaultdict(float)
    rows = session.scalars(
        select(UsageHourRow).where(
            UsageHourRow.key == key, UsageHourRow.hour > _hour_of(now) - WINDOW_HOURS
        )
    )
    for row in rows:
        by_hour[row.hour] += getattr(row, kind)
    for attempt in list_running(session):
        if key in attempt.keys:
            for hour, used in _split_by_hour(attempt.row, now=now):
                by_hour[hour] += getattr(used, kind)
    left = sum(by_hour.values())
    for hour in sorted(by_hour):
        left -= by_hour[hour]
        if left < limit:
            return datetime.fromtimestamp((hour + WINDOW_HOURS) * _HOUR, UTC)
    return None


def read_fair_share(session: Session) -> FairShare:
    row = session.get(FairShareRow, FAIR_SHARE_ID)
    return FairShare() if row is None else FairShare.model_validate(row)


def read_decayed(session: Session, *, now: datetime) -> dict[str, ResourceHours]:
    """Of all people and groups, decayed until now, without what runs."""
    half_life_days = read_fair_share(session).half_life_days
    return {
        row.key: _decay_row(row, half_life_days, now=now)
        for row in session.scalars(select(UsageRow))
    }


def resources_of(attempt: AttemptRow) -> tuple[int, float]:
    """Cores and GPUs."""
    workers = attempt.num_workers
    return workers * attempt.cpus_per_worker, workers * attempt.gpus_per_worker


@dataclass(frozen=True)
class RunningAttempt:
    """An attempt whose resources are not free, and the keys that its usage counts for."""

    row: AttemptRow
    user: str
    keys: list[str]


def list_running(session: Session) -> list[RunningAttempt]:
    rows = session.execute(
        select(AttemptRow, JobRow.user)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(AttemptRow.released_at.is_(None))
        .execution_options(**ALL_ROWS)
    ).all()
    groups = people.read_groups(session)
    tags: defaultdict[str, list[str]] = defaultdict(list)
    job_ids = [attempt.job_id for attempt, _ in rows]
    for row in session.scalars(select(TagRow).where(TagRow.job_id.in_(job_ids))):
        tags[row.job_id].append(row.tag)
    return [
        RunningAttempt(
            attempt, user, list_keys(user, groups.get(user), tuple(tags[attempt.job_id]))
        )
        for attempt, user in rows
    ]


def delete_old(session: Session, *, now: datetime) -> None:
    """What no quota counts any more."""
    oldest = _hour_of(now) - WINDOW_HOURS
    session.execute(delete(UsageHourRow).where(UsageHourRow.hour <= oldest))


def _add_decayed(
    session: Session, key: str, added: ResourceHours, half_life_days: float, *, now: datetime
) -> None:
    row = session.get(UsageRow, key, populate_existing=True)
    if row is None:
        session.add(
            UsageRow(key=key, core_hours=added.core_hours, gpu_hours=added.gpu_hours, at=now)
        )
        return
    total = _decay_row(row, half_life_days, now=now) + added
    row.core_hours, row.gpu_hours, row.at = total.core_hours, total.gpu_hours, now


def _decay_row(row: UsageRow, half_life_days: float, *, now: datetime) -> ResourceHours:
    used = ResourceHours(row.core_hours, row.gpu_hours)
    return decay(used, (now - row.at).total_seconds(), half_life_days)


def _split_by_hour(attempt: AttemptRow, *, now: datetime) -> Iterator[tuple[int, ResourceHours]]:
    """From the claim until now, as far as a quota counts it."""
    cores, gpus = resources_of(attempt)
    last = _hour_of(now)
    first = max(_hour_of(attempt.created_at), last - WINDOW_HOURS + 1)
    for hour in range(first, last + 1):
        begins = datetime.fromtimestamp(hour * _HOUR, UTC)
        seconds = (
            min(now, begins + timedelta(seconds=_HOUR)) - max(attempt.created_at, begins)
        ).total_seconds()
        if seconds > 0:
            yield hour, ResourceHours(cores * seconds / _HOUR, gpus * seconds / _HOUR)


def _hour_of(at: datetime) -> int:
    return int(at.timestamp()) // _HOUR
