"""Leases: which dispatcher watches an attempt, until when, and how it loses that right.

A dispatcher owns an attempt from the claim until the attempt has ended and its resources are
released. The attempt's fencing token proves ownership: taking over an expired lease increments it,
so late writes of the former owner change nothing.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from service.errors import LeaseLost
from service.jobs import lifecycle
from service.states import AttemptState, Reason
from service.storage.tables import IS_LEASED, AttemptRow, JobRow
from service.text import sanitize_text


@dataclass(frozen=True)
class Claim:
    """A new attempt and the runner that will run it."""

    attempt_id: str
    fencing_token: int
    runner_id: str


def renew_leases(session: Session, *, owner: str, now: datetime, lease_seconds: float) -> None:
    """Extends all leases that the owner still has."""
    session.execute(
        update(AttemptRow)
        .where(AttemptRow.owner == owner, IS_LEASED)
        .values(lease_expires_at=now + timedelta(seconds=lease_seconds))
    )


def take_over_expired(
    session: Session, *, owner: str, now: datetime, lease_seconds: float
) -> list[AttemptRow]:
    """Gives the owner all attempts whose lease of another dispatcher has expired."""
    expired = session.scalars(
        select(AttemptRow)
        .where(
            IS_LEASED,
            AttemptRow.owner != owner,
            AttemptRow.lease_expires_at < now,
        )
        .with_for_update(skip_locked=True)
    ).all()
    for attempt in expired:
        attempt.owner = owner
        attempt.fencing_token += 1
        attempt.lease_expires_at = now + timedelta(seconds=lease_seconds)
    return list(expired)


def release_leases(session: Session, *, owner: str, now: datetime) -> None:
    """Lets the owner's leases expire now, so that others need not wait when it exits."""
    session.execute(
        update(AttemptRow)
        .where(AttemptRow.owner == owner, IS_LEASED)
        .values(lease_expires_at=now - timedelta(seconds=1))
    )


@dataclass(frozen=True)
class OwnedAttempt:
    """An attempt that a dispatcher watches, and its job."""

    attempt: AttemptRow
    job: JobRow


def list_owned(session: Session, *, owner: str) -> list[OwnedAttempt]:
    """Oldest first."""
    rows = session.execute(
        select(AttemptRow, JobRow)
        .join(JobRow, JobRow.id == AttemptRow.job_id)
        .where(AttemptRow.owner == owner, IS_LEASED)
        .order_by(AttemptRow.id)
    )
    return [OwnedAttempt(attempt=attempt, job=job) for attempt, job in rows]


def end_attempt(
    session: Session,
    attempt_id: str,
    reason: Reason,
    *,
    fencing_token: int,
    now: datetime,
    message: str,
) -> bool:
    """Ends an attempt for its dispatcher; False where it has ended already.

    LeaseLost where another dispatcher has taken the attempt over.
    """
    job, attempt = _lock_owned(session, attempt_id, fencing_token=fencing_token)
    if attempt.state is AttemptState.ENDED:
        return False
    lifecycle.end_attempt(session, job, attempt, reason, message=sanitize_text(message), now=now)
    return True


def _lock_owned(
    session: Session, attempt_id: str, *, fencing_token: int
) -> tuple[JobRow, AttemptRow]:
    """LeaseLost where another dispatcher has taken the attempt over."""
    attempt = session.get(AttemptRow, attempt_id)
    assert attempt is not None
    job = lifecycle.lock_job(session, attempt.job_id)
    session.refresh(attempt, with_for_update=True)
    if attempt.fencing_token != fencing_token:
        raise LeaseLost(f"another dispatcher has taken over attempt {attempt_id}")
    return job, attempt
