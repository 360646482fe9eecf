"""Fair share: who has used how much, and the points that jobs lose in the queue for it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.access import people, usage
from service.jobs import queue_order
from service.resources import ResourceBundle, ResourceHours
from service.scheduling import cluster_state, policy
from service.specs.fair_share import FairShare, accumulate
from service.storage import changes
from service.storage.tables import FairShareRow, PersonRow
from service.text import count_of, format_number

# Usage changes slowly, and claims come often.
_REFRESH_SECONDS = 10.0
# Points change in the queue when they are off by this much: a change moves all jobs of a person.
_MIN_CHANGE = 1.0
_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Use:
    """`used`: decayed, with what runs. `relative`: to the most of any person, or group."""

    used: ResourceHours
    relative: float


def refresh_points(session: Session, capacity: ResourceBundle, *, now: datetime) -> None:
    """Changes the points in force where usage has changed enough, at most every ten seconds.

    The caller holds the lock of the cluster's row.
    """
    row = session.get(FairShareRow, usage.FAIR_SHARE_ID)
    if row is None:
        row = FairShareRow(id=usage.FAIR_SHARE_ID, **FairShare().model_dump(), refreshed_at=now)
        session.add(row)
    elif now < row.refreshed_at + timedelta(seconds=_REFRESH_SECONDS):
        return
    row.refreshed_at = now
    wanted = _compute_points(session, FairShare.model_validate(row), capacity, now=now)
    for user, points in queue_order.read_points(session).items():
        target = wanted.get(user, 0.0)
        if abs(target - points) >= _MIN_CHANGE or (target == 0.0 and points > 0):
            queue_order.set_points(session, user, round(target))


def set_fair_share(session: Session, fair_share: FairShare, *, now: datetime) -> None:
    """Changes the settings, and the queue at once. Usage so far stays as it has decayed."""
    capacity = cluster_state.lock_cluster(session)
    session.merge(
        FairShareRow(id=usage.FAIR_SHARE_ID, **fair_share.model_dump(), refreshed_at=_LONG_AGO)
    )
    session.flush()
    if capacity is not None:
        refresh_points(session, capacity, now=now)
    changes.notify(session, "fair-share")


def read_use(session: Session, capacity: ResourceBundle, *, now: datetime) -> dict[str, Use]:
    """Of all people and groups that have used anything, by key, as of a quota."""
    used = _read_used(session, now=now)
    groups = people.read_groups(session)
    relative = policy.compute_fair_share(used, groups, capacity, weight=0).relative
    return {key: Use(used[key], relative[key]) for key in used}


def explain_points(points: int, user: str, group: str | None, uses: dict[str, Use]) -> str:
    """`2 points for ann's 31 core-hours (2 % of the heaviest user's)`."""
    parts = [
        f"{name}'s {_format_hours(found.used)} "
        f"({format_number(100 * found.relative, digits=2)} % of the heaviest {kind}'s)"
        for kind, name in (("user", user), ("group", group))
        if name is not None and (found := uses.get(f"{kind}:{name}")) is not None
    ]
    return f"{count_of(points, 'point')} for {' and '.join(parts) or 'recent use'}"


def _read_used(session: Session, *, now: datetime) -> dict[str, ResourceHours]:
    half_life_days = usage.read_fair_share(session).half_life_days
    used = usage.read_decayed(session, now=now)
    for attempt in usage.list_running(session):
        seconds = (now - attempt.row.created_at).total_seconds()
        added = accumulate(*usage.resources_of(attempt.row), seconds, half_life_days)
        for key in attempt.keys:
            if not key.startswith("tag:"):
                used[key] = used.get(key, ResourceHours()) + added
    return used


def _compute_points(
    session: Session, fair_share: FairShare, capacity: ResourceBundle, *, now: datetime
) -> dict[str, float]:
    """Without a second person there is nothing to share."""
    num_people = session.scalar(select(func.count()).select_from(PersonRow)) or 0
    if fair_share.weight == 0 or num_people < 2:  # noqa: PLR2004
        return {}
    used, groups = _read_used(session, now=now), people.read_groups(session)
    return policy.compute_fair_share(used, groups, capacity, weight=fair_share.weight).points


def _format_hours(used: ResourceHours) -> str:
    cores = f"{format_number(used.core_hours)} core-hours"
    if used.gpu_hours == 0:
        return cores
    return f"{cores} and {format_number(used.gpu_hours)} GPU-hours"
