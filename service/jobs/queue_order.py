"""The order of the queue: by priority, age, and the points that a job loses for its owner's usage.

Each person has points in force, which `service.scheduling.fair_share` changes. A job that begins to
wait takes them under a shared lock of their row, so that they cannot change before it is stored.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from service.states import WAITING_STATES
from service.storage.tables import JobRow, QueuePointsRow
from service.storage.visibility import ALL_ROWS

# A waiting job gains one point of priority in this time, so no job starves: after 17 hours a job
# of priority 0 starts before a new one of priority 100.
AGING_SECONDS = 600.0


def make_sort_key(*, created_at: datetime, priority: int, points: int) -> float:
    """In seconds; of two jobs the one with the smaller key starts first.

    All jobs age at the same rate, so the order of two jobs changes only with their priorities and
    points, and can be an index.
    """
    return created_at.timestamp() - (priority - points) * AGING_SECONDS


def read_points(session: Session) -> dict[str, int]:
    """The points in force, by person."""
    rows = session.execute(select(QueuePointsRow.user, QueuePointsRow.points))
    return dict(rows.all())


def lock_points(session: Session, user: str) -> int:
    """The points in force, which do not change until the transaction ends."""
    locked: dict[str, int] = session.info.setdefault("queue_points", {})
    if user not in locked:
        statement = (
            select(QueuePointsRow.points)
            .where(QueuePointsRow.user == user)
            .with_for_update(read=True)
        )
        points = session.scalar(statement)
        if points is None:
            is_sqlite = session.get_bind().dialect.name == "sqlite"
            insert: Any = sqlite.insert if is_sqlite else postgresql.insert
            row = insert(QueuePointsRow).values(user=user, points=0)
            # Another transaction may insert it at the same moment.
            session.execute(row.on_conflict_do_nothing())
            points = session.scalars(statement).one()
        locked[user] = points
    return locked[user]


def delete_points(session: Session, user: str) -> None:
    """Of a person without waiting jobs."""
    session.execute(delete(QueuePointsRow).where(QueuePointsRow.user == user))


def set_points(session: Session, user: str, points: int) -> None:
    """Moves the person's waiting jobs; later, where another transaction has locked one of them.

    Only one transaction at a time may call this: the caller holds the lock of the cluster's row.
    """
    row = session.scalar(
        select(QueuePointsRow)
        .where(QueuePointsRow.user == user)
        .with_for_update(skip_locked=True)
        .execution_options(populate_existing=True)
    )
    if row is None:
        return
    is_waiting = (JobRow.user == user, JobRow.state.in_(WAITING_STATES))
    waiting = select(JobRow.id).where(*is_waiting).execution_options(**ALL_ROWS)
    locked = session.scalars(waiting.with_for_update(skip_locked=True)).all()
    total = session.scalar(select(func.count()).select_from(waiting.subquery())) or 0
    if len(locked) < total:
        return
    row.points = points
    session.execute(
        update(JobRow)
        .where(*is_waiting, JobRow.fair_share_points != points)
        .values(
            queue_sort_key=JobRow.queue_sort_key
            + AGING_SECONDS * (points - JobRow.fair_share_points),
            fair_share_points=points,
        )
        .execution_options(synchronize_session=False)
    )
