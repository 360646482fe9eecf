"""The dispatchers that run, as their heartbeats say."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from service.storage.tables import DispatcherRow

# Each commit wakes the listeners of SQLite.
_RECORD_SECONDS = 10.0
_TIMEOUT = timedelta(seconds=60)
# Those of processes that were killed.
_FORGET_AFTER = timedelta(days=1)


@dataclass(frozen=True)
class DispatchersState:
    """`running`: how many had a heartbeat in the last minute.

    `seen_at`: the last heartbeat; `round_at`: when any last ended a round without an error.
    """

    running: int
    seen_at: datetime | None
    round_at: datetime | None


def record_heartbeat(
    session: Session, owner: str, *, round_at: datetime | None, now: datetime
) -> None:
    """Records that a dispatcher runs, at most every ten seconds."""
    row = session.get(DispatcherRow, owner)
    if row is None:
        session.execute(delete(DispatcherRow).where(DispatcherRow.seen_at < now - _FORGET_AFTER))
        session.add(DispatcherRow(owner=owner, started_at=now, seen_at=now, round_at=round_at))
    elif now >= row.seen_at + timedelta(seconds=_RECORD_SECONDS):
        row.seen_at, row.round_at = now, round_at


def remove(session: Session, owner: str) -> None:
    """Of a dispatcher that stops in order."""
    session.execute(delete(DispatcherRow).where(DispatcherRow.owner == owner))


def read_state(session: Session, *, now: datetime) -> DispatchersState:
    rows = session.execute(select(DispatcherRow.seen_at, DispatcherRow.round_at)).all()
    rounds = [round_at for _, round_at in rows if round_at is not None]
    return DispatchersState(
        running=sum(seen_at >= now - _TIMEOUT for seen_at, _ in rows),
        seen_at=max((seen_at for seen_at, _ in rows), default=None),
        round_at=max(rounds, default=None),
    )
