"""Leases: heartbeats, release, taking over from dead dispatchers; and what the cluster holds.

A dispatcher owns an attempt from the claim until it has ended and is released. It proves that with
the attempt's fence; whoever takes over an expired lease raises the fence, so that the former
owner's late writes change nothing.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service import attempts, moves
from service.errors import LeaseLost
from service.pools import Pool
from service.reports import storable
from service.states import AttemptState, JobState, Reason
from service.tables import AttemptRow, ClusterRow, JobRow

_CLUSTER = 1
# One may live on without resources, while it delivers what it has trained.
_IS_HELD = or_(AttemptRow.released_at.is_(None), AttemptRow.state != AttemptState.ENDED)
# How old the cluster's row may be: a commit a round would wake everybody each round.
_SEEN_SECONDS = 10.0


@dataclass(frozen=True)
class Claim:
    """An attempt with the runner that will run it."""

    attempt_id: str
    fence: int
    runner_id: str


def record_cluster(
    session: Session, pool: Pool, *, nodes: Sequence[Pool] = (), now: datetime
) -> None:
    """What the cluster holds in all, for admission and for refusing what never fits.

    `nodes`: what each of them has; none: one has it all.
    """
    cluster = session.get(ClusterRow, _CLUSTER)
    seen = {
        "cpus": pool.cpus,
        "gpus": pool.gpus,
        "nodes": sorted([node.cpus, node.gpus] for node in nodes),
    }
    if cluster is None:
        # Another dispatcher that sees the cluster for the first time may be first.
        with suppress(IntegrityError), session.begin_nested():
            session.add(ClusterRow(id=_CLUSTER, seen_at=now, **seen))
        return
    is_stale = now > cluster.seen_at + timedelta(seconds=_SEEN_SECONDS)
    if is_stale or any(getattr(cluster, name) != value for name, value in seen.items()):
        for name, value in seen.items():
            setattr(cluster, name, value)
        cluster.seen_at = now


def cluster(session: Session) -> tuple[Pool, datetime] | None:
    """The whole pool and when it was seen; None before any dispatcher has seen it."""
    row = session.get(ClusterRow, _CLUSTER)
    return None if row is None else (Pool(cpus=row.cpus, gpus=row.gpus), row.seen_at)


def reserved(session: Session) -> Pool:
    """What attempts occupy that were not released yet, ended or not."""
    cpus, gpus = session.execute(
        select(
            func.coalesce(func.sum(AttemptRow.num_workers * AttemptRow.cpus_per_worker), 0),
            func.coalesce(func.sum(AttemptRow.num_workers * AttemptRow.gpus_per_worker), 0),
        ).where(AttemptRow.released_at.is_(None))
    ).one()
    return Pool(cpus=cpus, gpus=gpus)


def lock_cluster(session: Session) -> Pool | None:
    """The whole pool, this transaction's alone; None before any dispatcher has seen it."""
    row = session.get(ClusterRow, _CLUSTER, with_for_update=True, populate_existing=True)
    return None if row is None else Pool(cpus=row.cpus, gpus=row.gpus)


def renew(session: Session, *, owner: str, now: datetime, lease_seconds: float) -> None:
    """The heartbeat: all leases of the owner that it still holds."""
    session.execute(
        update(AttemptRow)
        .where(AttemptRow.owner == owner, _IS_HELD)
        .values(lease_expires_at=now + timedelta(seconds=lease_seconds))
    )


def take_over(
    session: Session, *, owner: str, now: datetime, lease_seconds: float
) -> list[AttemptRow]:
    """Makes the attempts whose lease has expired the owner's own."""
    expired = session.scalars(
        select(AttemptRow)
        .where(
            _IS_HELD,
            AttemptRow.owner != owner,
            AttemptRow.lease_expires_at < now,
        )
        .with_for_update(skip_locked=True)
    ).all()
    for attempt in expired:
        attempt.owner = owner
        attempt.fence += 1
        attempt.lease_expires_at = now + timedelta(seconds=lease_seconds)
    return list(expired)


def give_up_leases(session: Session, *, owner: str, now: datetime) -> None:
    """At an orderly end: others need not wait for the leases to expire."""
    session.execute(
        update(AttemptRow)
        .where(AttemptRow.owner == owner, _IS_HELD)
        .values(lease_expires_at=now - timedelta(seconds=1))
    )


@dataclass(frozen=True)
class Held:
    """An attempt that the owner watches, with its job."""

    attempt: AttemptRow
    job: JobRow


def held(session: Session, *, owner: str) -> list[Held]:
    """Oldest first."""
    rows = session.execute(
        select(AttemptRow, JobRow)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(AttemptRow.owner == owner, _IS_HELD)
        .order_by(AttemptRow.id)
    )
    return [Held(attempt=attempt, job=job) for attempt, job in rows]


def end(
    session: Session,
    attempt_id: str,
    reason: Reason,
    *,
    fence: int,
    now: datetime,
    message: str,
) -> bool:
    """The dispatcher's account of an end; False where the attempt had told its own before."""
    job, attempt = _owned(session, attempt_id, fence=fence)
    if attempt.state is AttemptState.ENDED:
        return False
    attempts.end(session, job, attempt, reason, message=storable(message), now=now)
    return True


def next_wake(session: Session, *, now: datetime) -> float | None:
    """Seconds until a job that waits to be tried again may start; None where none waits."""
    earliest = session.scalar(
        select(func.min(JobRow.not_before)).where(
            JobRow.state == JobState.QUEUED, JobRow.not_before > now
        )
    )
    return None if earliest is None else (earliest - now).total_seconds()


def _owned(session: Session, attempt_id: str, *, fence: int) -> tuple[JobRow, AttemptRow]:
    """LeaseLost where another dispatcher has taken the attempt over."""
    attempt = session.get(AttemptRow, attempt_id)
    assert attempt is not None
    job = moves.lock(session, attempt.job_id)
    session.refresh(attempt, with_for_update=True)
    if attempt.fence != fence:
        raise LeaseLost(f"attempt {attempt_id} is another dispatcher's now")
    return job, attempt
