"""Events of jobs, searches and models: written in the transaction of what they report."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.storage import changes
from service.storage.actors import actor_of
from service.storage.changes import ChangeKind
from service.storage.tables import (
    EventRow,
    JobEventRow,
    JobRow,
    ModelEventRow,
    ModelRow,
    SearchEventRow,
    SearchRow,
)
from service.storage.visibility import find_visible


class EventKind(StrEnum):
    SUBMITTED = "submitted"
    STATE = "state"
    CHANGED = "changed"
    STOP_REQUESTED = "stop-requested"  # of a job
    ATTEMPT = "attempt"  # of a job
    CHECKPOINT = "checkpoint"  # of a job
    DRIVER = "driver"  # of a search
    TRIAL = "trial"  # of a search
    REGISTERED = "registered"  # of a model
    PROMOTED = "promoted"  # of a model
    ALIAS_REMOVED = "alias-removed"  # of a model
    VERSION_DELETED = "version-deleted"  # of a model


_Subject = JobRow | SearchRow | ModelRow

_ROW_TYPES: dict[type[_Subject], type[JobEventRow | SearchEventRow | ModelEventRow]] = {
    JobRow: JobEventRow,
    SearchRow: SearchEventRow,
    ModelRow: ModelEventRow,
}


def append_event(
    session: Session,
    subject: _Subject,
    kind: EventKind,
    data: dict[str, Any],
    *,
    now: datetime,
) -> None:
    """The caller has locked the subject, whose counter numbers its events from 1.

    The actor is that of the session.
    """
    subject.event_count += 1
    row_type = _ROW_TYPES[type(subject)]
    actor = actor_of(session)
    session.add(
        row_type(
            subject_id=subject.id,
            number=subject.event_count,
            at=now,
            kind=kind,
            actor=actor.kind,
            user=actor.user,
            data=data,
        )
    )
    # A checkpoint gives a dispatcher nothing to act on.
    change = ChangeKind.PROGRESS if kind is EventKind.CHECKPOINT else ChangeKind.STATE
    changes.notify(session, subject.id, change)


def list_events_after(
    session: Session, subject: _Subject, number: int, *, limit: int
) -> list[EventRow]:
    """Events that follow `number`, oldest first.

    An event that names a job which the caller of the request does not see, `by`, is without it.
    """
    row_type = _ROW_TYPES[type(subject)]
    statement = (
        select(row_type)
        .where(row_type.subject_id == subject.id, row_type.number > number)
        .order_by(row_type.number)
        .limit(limit)
    )
    found = list(session.scalars(statement))
    named = {event.data["by"] for event in found if event.data.get("by") is not None}
    hidden = named - find_visible(session, JobRow, sorted(named)) if named else set()
    for event in found:
        if event.data.get("by") in hidden:
            session.expunge(event)
            event.data = event.data | {"by": None}
    return found
