"""Names, tags and notes that users change after the submission."""

from datetime import datetime
from typing import Any

from sqlalchemy import delete
from sqlalchemy.orm import Session

from service.jobs import lifecycle, records
from service.specs.labels import JobLabelUpdate, LabelUpdate
from service.storage import events
from service.storage.events import EventKind
from service.storage.tables import JobRow, SubmittedRow, TagRow


def update_job(session: Session, job_id: str, update: JobLabelUpdate, *, now: datetime) -> JobRow:
    """In any state of the job."""
    job = lifecycle.lock_job(session, job_id)
    changes = set_labels(job, update)
    before = records.tags_of(job)
    if update.tags is not None and update.tags != before:
        changes["tags"] = {"from": list(before), "to": list(update.tags)}
        job.spec = job.spec | {"tags": list(update.tags)}
        session.execute(delete(TagRow).where(TagRow.job_id == job.id))
        session.add_all(TagRow(job_id=job.id, tag=tag) for tag in update.tags)
    if changes:
        events.append_event(session, job, EventKind.CHANGED, changes, now=now)
    return job


def set_labels(row: SubmittedRow, update: LabelUpdate) -> dict[str, Any]:
    """Of a locked job or search. What has changed, by field, for its event."""
    changes: dict[str, Any] = {}
    for field in ("name", "note", "starred", "archived"):
        value, before = getattr(update, field), getattr(row, field)
        if value is not None and value != before:
            # Notes are long, and the row has the newest.
            changes[field] = None if field == "note" else {"from": before, "to": value}
            setattr(row, field, value)
    if "name" in changes:
        row.spec = row.spec | {"name": row.name}
    return changes
