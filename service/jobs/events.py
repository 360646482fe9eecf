"""What happened to a job: numbered per job, written with the change itself, read as a stream."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.storage import changes
from service.storage.tables import EventRow, JobRow


class EventKind(StrEnum):
    SUBMITTED = "submitted"
    STATE = "state"
    STOP_REQUESTED = "stop-requested"
    CHANGED = "changed"
    ATTEMPT = "attempt"
    CHECKPOINT = "checkpoint"


def append_event(
    session: Session, job: JobRow, kind: EventKind, data: dict[str, Any], *, now: datetime
) -> None:
    """The job is locked by the caller: its counter gives the event's number."""
    job.event_count += 1
    session.add(EventRow(job_id=job.id, number=job.event_count, at=now, kind=kind, data=data))
    changes.notify(session)


def list_events_after(session: Session, job_id: str, number: int, *, limit: int) -> list[EventRow]:
    """Events that follow `number`, oldest first."""
    statement = (
        select(EventRow)
        .where(EventRow.job_id == job_id, EventRow.number > number)
        .order_by(EventRow.number)
        .limit(limit)
    )
    return list(session.scalars(statement))
