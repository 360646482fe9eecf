"""Commands on a search: pause, resume, cancel, extend, change its priority, delete.

A repeated command changes nothing. IllegalTransition where the search's state does not allow it.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import delete as delete_rows
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.errors import Conflict, FieldError, IllegalTransition, InvalidInput
from service.jobs import commands as job_commands
from service.jobs import labels, retention
from service.jobs import lifecycle as job_lifecycle
from service.searches import lifecycle, records
from service.specs.labels import LabelUpdate
from service.specs.search_spec import SearchSpec
from service.specs.validation import validate
from service.states import CONTINUING_STOPS, JobState, SearchEndReason, SearchState
from service.storage import changes, events
from service.storage.events import EventKind
from service.storage.tables import JobRow, SearchRow, TrialRow


def pause(session: Session, search_id: str, *, now: datetime) -> SearchRow:
    """No trial starts; running trials save a checkpoint and free their workers."""
    search = lifecycle.lock_search(session, search_id)
    if search.state is SearchState.PAUSED:
        return search
    lifecycle.transition(session, search, SearchState.PAUSED, now=now)
    for trial, job in records.lock_unfinished_trials(session, search_id):
        if job.state not in {JobState.PAUSED, JobState.HELD}:
            trial.is_paused = _try_command(job_commands.pause, session, job, now=now)
    return search


def resume(session: Session, search_id: str, *, now: datetime) -> SearchRow:
    """Its trials continue from their checkpoints."""
    search = lifecycle.lock_search(session, search_id)
    if search.state.wants_driver:
        return search
    if search.state is not SearchState.PAUSED:
        raise IllegalTransition(
            f"search {search.id} {search.state.past_phrase} and cannot be resumed"
        )
    lifecycle.transition(session, search, SearchState.QUEUED, now=now)
    resume_trials(session, search_id, now=now)
    return search


def resume_trials(session: Session, search_id: str, *, now: datetime) -> None:
    """Resumes what `pause` has paused. Call it again for trials that have not stopped yet."""
    statement = (
        select(TrialRow)
        .where(TrialRow.search_id == search_id, TrialRow.is_paused)
        .order_by(TrialRow.job_id)
    )
    for trial in session.scalars(statement):
        # Locked before its state is read: it may end, or a user may resume it, at this moment.
        job = job_lifecycle.lock_job(session, trial.job_id)
        if job.state is JobState.PAUSED:
            job_commands.resume(session, job.id, now=now)
        if job.stop_requested in CONTINUING_STOPS:
            trial.is_paused = False


def cancel(session: Session, search_id: str, *, now: datetime) -> SearchRow:
    """Cancels waiting trials at once; running ones save a checkpoint and stop."""
    search = lifecycle.lock_search(session, search_id)
    if search.state is not SearchState.CANCELLED:
        end_reason = SearchEndReason.CANCELLED
        lifecycle.transition(session, search, SearchState.CANCELLED, end_reason=end_reason, now=now)
        for _, job in records.lock_unfinished_trials(session, search_id):
            _try_command(job_commands.cancel, session, job, now=now)
    return search


def update_labels(
    session: Session, search_id: str, update: LabelUpdate, *, now: datetime
) -> SearchRow:
    search = lifecycle.lock_search(session, search_id)
    changes = labels.set_labels(search, update)
    if changes:
        events.append_event(session, search, EventKind.CHANGED, changes, now=now)
    return search


def change_priority(session: Session, search_id: str, priority: int, *, now: datetime) -> SearchRow:
    """Changes the priority of its unfinished and of its future trials."""
    search = lifecycle.lock_search(session, search_id)
    if search.state.is_final:
        raise IllegalTransition(
            f"search {search.id} {search.state.past_phrase}; its priority cannot be changed"
        )
    spec = records.spec_of(search)
    before = spec.make_example().priority
    if before != priority:
        changed = spec.model_copy(update={"job": spec.job | {"priority": priority}})
        search.spec = changed.model_dump(mode="json")
        data = {"priority": {"from": before, "to": priority}}
        events.append_event(session, search, EventKind.CHANGED, data, now=now)
        for _, job in records.lock_unfinished_trials(session, search_id):
            job_commands.change_priority(session, job.id, priority, now=now)
    return search


def extend(
    session: Session, search_id: str, budget: Mapping[str, Any], *, now: datetime
) -> SearchRow:
    """Enlarges the budget, in new totals; a search that has succeeded is queued again.

    InvalidInput for a smaller budget, IllegalTransition where the search has failed or was
    cancelled.
    """
    search = lifecycle.lock_search(session, search_id)
    before = records.spec_of(search)
    document = before.model_dump(mode="json")
    document["budget"] |= budget
    # Only the budget changes: the space, which may take seconds to check, was checked before.
    spec = validate(SearchSpec, document, message="the search's spec is not valid")
    field_errors = [
        FieldError(pointer=f"/{name}", message=f"must be at least {old}; received {new}")
        for name in ("trials", "iterations", "wall_seconds")
        for old, new in [(getattr(before.budget, name), getattr(spec.budget, name))]
        if old is not None and new is not None and new < old
    ]
    if field_errors:
        raise InvalidInput("a budget can only be enlarged", field_errors=tuple(field_errors))
    if spec.budget == before.budget:
        return search
    if search.state in {SearchState.FAILED, SearchState.CANCELLED}:
        raise IllegalTransition(
            f"search {search.id} {search.state.past_phrase} and cannot be extended; submit another"
        )
    search.spec = spec.model_dump(mode="json")
    data = {"budget": spec.budget.model_dump(mode="json")}
    events.append_event(session, search, EventKind.CHANGED, data, now=now)
    if search.state in {SearchState.SUCCEEDED, SearchState.RUNNING}:
        # A driver reads the number of trials when it starts: the extended search gets a new one.
        lifecycle.transition(session, search, SearchState.QUEUED, now=now)
    return search


def delete(session: Session, search_id: str) -> list[str]:
    """Deletes a final search and all its trials. Conflict while something still needs them.

    Returns the ids of their attempts, whose artifacts to delete after the commit.
    """
    search = lifecycle.lock_search(session, search_id)
    if not search.state.is_final:
        raise Conflict(f"search {search.id} is {search.state}; cancel it first")
    if search.driver_id is not None:
        raise Conflict(f"the driver of search {search.id} has not exited yet; try again")
    attempts: list[str] = []
    for trial, job in records.list_trials(session, search_id):
        session.delete(trial)
        session.flush()
        attempts += retention.delete_job(session, job.id)
    session.execute(delete_rows(SearchRow).where(SearchRow.id == search.id))
    changes.notify(session, search.id)
    return attempts


def _try_command(
    command: Callable[..., JobRow], session: Session, job: JobRow, *, now: datetime
) -> bool:
    """False where the job is already stopping for good."""
    try:
        command(session, job.id, now=now)
    except IllegalTransition:
        return False
    return True
