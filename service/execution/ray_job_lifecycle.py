"""The life of a Ray job of ours, a runner or a search's driver; the caller holds its row's lock.

    planned ──submission──► starting ──first call──► ready ──drain──► draining ──► terminated

A dispatcher sets the token when it begins the submission. A submission that was not confirmed
within a minute is begun again, with a new token.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from service.access import tokens
from service.states import RayJobState
from service.storage import changes
from service.storage.tables import RayJobRow

Row = TypeVar("Row", bound=RayJobRow)

# The dispatcher that submitted it has died, or got no response.
_SUBMISSION_TIMEOUT = timedelta(seconds=60)
# Ray may have a job in these states.
_ACTIVE = (RayJobState.STARTING, RayJobState.READY, RayJobState.DRAINING)


@dataclass(frozen=True)
class RayJobSubmission(Generic[Row]):
    """A Ray job that is to be submitted; `secret` is its token."""

    row: Row
    secret: str

    @property
    def id(self) -> str:
        return self.row.id


def begin_submission(row: Row, *, now: datetime) -> RayJobSubmission[Row]:
    secret = tokens.new_secret()
    row.token_sha256 = tokens.digest(secret)
    row.state = RayJobState.STARTING
    row.submission_started_at = now
    return RayJobSubmission(row=row, secret=secret)


def revert_submissions(session: Session, submissions: Iterable[RayJobSubmission[Row]]) -> None:
    """Makes jobs that were not submitted after all planned again, unless their token is newer."""
    # By id, as runners are always locked.
    for submission in sorted(submissions, key=lambda submission: submission.id):
        row = lock_row(session, type(submission.row), submission.id)
        is_ours = row.token_sha256 == tokens.digest(submission.secret)
        if is_ours and row.state is RayJobState.STARTING and row.submitted_at is None:
            row.state = RayJobState.PLANNED


def mark_submitted(row: RayJobRow, *, now: datetime) -> None:
    row.submitted_at = row.submitted_at or now


def record_call(row: RayJobRow, *, now: datetime) -> None:
    """Notes that the job has called the API; it may do so before its submission is confirmed."""
    row.last_seen_at = now
    row.ready_at = row.ready_at or now
    mark_submitted(row, now=now)
    if row.state is RayJobState.STARTING:
        row.state = RayJobState.READY


def drain(session: Session, row: RayJobRow, *, now: datetime) -> None:
    """Makes the job exit at its next call. A planned one, which Ray does not have, terminates."""
    if row.state is RayJobState.PLANNED:
        mark_terminated(session, row, now=now)
    elif row.state not in {RayJobState.DRAINING, RayJobState.TERMINATED}:
        row.state = RayJobState.DRAINING
        row.draining_since = now
        # Its open request is answered, and a dispatcher waits for what it occupies.
        changes.notify(session, row.id)


def mark_terminated(session: Session, row: RayJobRow, *, now: datetime) -> None:
    """Ray has the job no longer, or never had it."""
    if row.state is not RayJobState.TERMINATED:
        row.state = RayJobState.TERMINATED
        row.terminated_at = now
    changes.notify(session, row.id)


def is_submission_lost(row: RayJobRow, *, now: datetime) -> bool:
    """Whether the submission was begun and not confirmed in time."""
    assert row.submission_started_at is not None
    return row.submitted_at is None and now > row.submission_started_at + _SUBMISSION_TIMEOUT


def is_startable(row: RayJobRow, *, now: datetime) -> bool:
    """Whether a submission may begin, for the first time or again."""
    is_starting = row.state is RayJobState.STARTING
    return row.state is RayJobState.PLANNED or (is_starting and is_submission_lost(row, now=now))


def is_unsubmitted(table: type[Row]) -> ColumnElement[bool]:
    """Those that may be startable, for a look without a lock."""
    return table.state.in_((RayJobState.PLANNED, RayJobState.STARTING)) & (
        table.submitted_at.is_(None)
    )


def list_active(session: Session, table: type[Row]) -> list[Row]:
    """Those that Ray may have, oldest first."""
    statement = select(table).where(table.state.in_(_ACTIVE)).order_by(table.id)
    return list(session.scalars(statement))


def lock_row(session: Session, table: type[Row], row_id: str) -> Row:
    row = session.get(table, row_id, with_for_update=True, populate_existing=True)
    assert row is not None, "authenticated, or read from the table"
    return row
