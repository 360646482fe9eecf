"""Searches: submit, find, page, move; pause, resume, cancel, extend, delete.

`move` is the only writer of a search's state, and writes the event with it.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import delete as delete_rows
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service import ids
from service.errors import (
    Conflict,
    FieldError,
    IdempotencyMismatch,
    IllegalTransition,
    InvalidInput,
    NotFound,
)
from service.execution import ray_job_lifecycle
from service.jobs import commands, records, retention, submission
from service.specs import search_spec
from service.specs.search_spec import SearchSpec
from service.states import (
    FINAL_STATES,
    NEXT_SEARCH_STATES,
    JobState,
    RayJobState,
    SearchEndReason,
    SearchState,
)
from service.storage import changes
from service.storage.tables import DriverRow, JobRow, SearchEventRow, SearchRow, TrialRow


class SearchEventKind(StrEnum):
    SUBMITTED = "submitted"
    STATE = "state"
    CHANGED = "changed"
    DRIVER = "driver"
    TRIAL = "trial"


@dataclass(frozen=True)
class SearchSubmission:
    """`is_replay`: the idempotency key had made this search before."""

    search: SearchRow
    is_replay: bool


def submit(
    session: Session,
    spec: SearchSpec,
    *,
    user: str,
    now: datetime,
    idempotency_key: str | None = None,
) -> SearchSubmission:
    """Saves the search; with a key that was used before, finds the one it made.

    InvalidInput where a value of the space makes no legal spec, CannotFit where the cluster can
    never hold a trial, IdempotencyMismatch for a key that made another search.
    """
    sha256 = hashlib.sha256(spec.model_dump_json().encode()).hexdigest()
    if idempotency_key is not None:
        earlier = _find_by_idempotency_key(session, idempotency_key, sha256)
        if earlier is not None:
            return SearchSubmission(search=earlier, is_replay=True)
    search_spec.check_search_spec(spec)
    _check_trial(session, spec)
    search = SearchRow(
        id=ids.new_id(now),
        name=spec.name,
        spec=spec.model_dump(mode="json"),
        state=SearchState.QUEUED,
        user=user,
        created_at=now,
        active_seconds=0.0,
        event_count=0,
        driver_number=0,
        driver_failures=0,
        idempotency_key=idempotency_key,
        spec_sha256=sha256,
    )
    try:
        with session.begin_nested():
            session.add(search)
    except IntegrityError:
        # The same request came twice at one time, and the other one was first.
        assert idempotency_key is not None
        first = _find_by_idempotency_key(session, idempotency_key, sha256)
        assert first is not None
        return SearchSubmission(search=first, is_replay=True)
    append_event(session, search, SearchEventKind.SUBMITTED, {"trials": spec.trials}, now=now)
    return SearchSubmission(search=search, is_replay=False)


def find_search(session: Session, search_id: str) -> SearchRow:
    search = session.get(SearchRow, search_id) if ids.is_id(search_id) else None
    if search is None:
        raise NotFound(f"no search {search_id!r}")
    return search


def lock_search(session: Session, search_id: str) -> SearchRow:
    """The search, this transaction's alone until it ends."""
    find_search(session, search_id)
    search = session.get(SearchRow, search_id, with_for_update=True, populate_existing=True)
    if search is None:
        raise NotFound(f"no search {search_id!r}")
    return search


def lock_driver(session: Session, search: SearchRow) -> DriverRow | None:
    """The driver of a locked search, locked as well; None where it has none."""
    if search.driver_id is None:
        return None
    return ray_job_lifecycle.lock_row(session, DriverRow, search.driver_id)


def spec_of(search: SearchRow) -> SearchSpec:
    return SearchSpec.model_validate(search.spec)


@dataclass(frozen=True)
class SearchPage:
    """`next_id`: where the next page begins; None after the last."""

    searches: list[SearchRow]
    next_id: str | None


def list_page(
    session: Session, *, limit: int, before_id: str | None = None, id_prefix: str | None = None
) -> SearchPage:
    """Newest first."""
    statement = select(SearchRow).order_by(SearchRow.id.desc()).limit(limit + 1)
    if before_id is not None:
        statement = statement.where(SearchRow.id < before_id)
    if id_prefix is not None:
        statement = statement.where(SearchRow.id.startswith(id_prefix, autoescape=True))
    found = list(session.scalars(statement))
    has_more = len(found) > limit
    return SearchPage(searches=found[:limit], next_id=found[limit - 1].id if has_more else None)


def list_events_after(
    session: Session, search_id: str, number: int, *, limit: int
) -> list[SearchEventRow]:
    """Events that follow `number`, oldest first."""
    statement = (
        select(SearchEventRow)
        .where(SearchEventRow.search_id == search_id, SearchEventRow.number > number)
        .order_by(SearchEventRow.number)
        .limit(limit)
    )
    return list(session.scalars(statement))


def append_event(
    session: Session,
    search: SearchRow,
    kind: SearchEventKind,
    data: dict[str, Any],
    *,
    now: datetime,
) -> None:
    """The search is locked by the caller: its counter gives the event's number."""
    search.event_count += 1
    session.add(
        SearchEventRow(search_id=search.id, number=search.event_count, at=now, kind=kind, data=data)
    )
    changes.notify(session)


def transition(
    session: Session,
    search: SearchRow,
    state: SearchState,
    *,
    now: datetime,
    end_reason: SearchEndReason | None = None,
    message: str | None = None,
) -> None:
    """Changes the state of a locked search. IllegalTransition if it may not.

    Drains its driver, where it has one, unless the search begins to run under it.
    """
    if state not in NEXT_SEARCH_STATES[search.state]:
        raise IllegalTransition(f"search {search.id} is {search.state} and cannot become {state}")
    data = {"from": search.state, "to": state, "end_reason": end_reason, "message": message}
    if search.active_since is not None:
        search.active_seconds = active_seconds(search, now=now)
        search.active_since = None
    if state is SearchState.RUNNING:
        search.active_since = now
        search.started_at = search.started_at or now
    elif (driver := lock_driver(session, search)) is not None:
        ray_job_lifecycle.drain(session, driver, now=now)
        if driver.state is RayJobState.TERMINATED:
            search.driver_id = None
    search.state = state
    search.end_reason = end_reason
    search.message = message
    search.finished_at = now if state.is_final else None
    append_event(session, search, SearchEventKind.STATE, data, now=now)


def active_seconds(search: SearchRow, *, now: datetime) -> float:
    """How long it has run in all, pauses left out."""
    since = search.active_since
    return search.active_seconds + ((now - since).total_seconds() if since is not None else 0.0)


def list_trials(session: Session, search_id: str) -> list[tuple[TrialRow, JobRow]]:
    """By number."""
    rows = session.execute(
        select(TrialRow, JobRow)
        .join(JobRow, JobRow.id == TrialRow.job_id)
        .where(TrialRow.search_id == search_id)
        .order_by(TrialRow.number)
    )
    return [(trial, job) for trial, job in rows]


def pause(session: Session, search_id: str, *, now: datetime) -> SearchRow:
    """No trial begins; those that run save a checkpoint and free their workers."""
    search = lock_search(session, search_id)
    if search.state is SearchState.PAUSED:
        return search
    transition(session, search, SearchState.PAUSED, now=now)
    for trial, job in _unfinished(session, search_id):
        if job.state not in {JobState.PAUSED, JobState.HELD}:
            trial.is_paused = _try_command(commands.pause, session, job, now=now)
    return search


def resume(session: Session, search_id: str, *, now: datetime) -> SearchRow:
    """Its trials go on from their checkpoints."""
    search = lock_search(session, search_id)
    if search.state.wants_driver:
        return search
    if search.state is not SearchState.PAUSED:
        raise IllegalTransition(f"search {search.id} has {search.state} already")
    transition(session, search, SearchState.QUEUED, now=now)
    resume_trials(session, search_id, now=now)
    return search


def resume_trials(session: Session, search_id: str, *, now: datetime) -> None:
    """Of a search that is not paused any more. One that has not stopped yet is left for later."""
    statement = select(TrialRow).where(TrialRow.search_id == search_id, TrialRow.is_paused)
    for trial in session.scalars(statement):
        job = records.find_job(session, trial.job_id)
        if job.state is JobState.PAUSED:
            commands.resume(session, job.id, now=now)
        if job.stop_requested is None:
            trial.is_paused = False


def cancel(session: Session, search_id: str, *, now: datetime) -> SearchRow:
    """With its trials: waiting ones at once, running ones save a checkpoint and stop."""
    search = lock_search(session, search_id)
    if search.state is not SearchState.CANCELLED:
        transition(
            session, search, SearchState.CANCELLED, end_reason=SearchEndReason.CANCELLED, now=now
        )
        for _, job in _unfinished(session, search_id):
            _try_command(commands.cancel, session, job, now=now)
    return search


def change_priority(session: Session, search_id: str, priority: int, *, now: datetime) -> SearchRow:
    """Of its trials, those to come and those that have not ended."""
    search = lock_search(session, search_id)
    if search.state.is_final:
        raise IllegalTransition(
            f"search {search.id} has {search.state} already and waits for nothing"
        )
    before = spec_of(search).make_example().priority
    if before != priority:
        search.spec = search.spec | {"job": search.spec["job"] | {"priority": priority}}
        data = {"priority": {"from": before, "to": priority}}
        append_event(session, search, SearchEventKind.CHANGED, data, now=now)
        for _, job in _unfinished(session, search_id):
            commands.change_priority(session, job.id, priority, now=now)
    return search


def extend(
    session: Session, search_id: str, budget: Mapping[str, Any], *, now: datetime
) -> SearchRow:
    """A larger budget, in new totals; a search that has succeeded goes on. Repeated, no change.

    InvalidInput for a smaller one, IllegalTransition where the search has failed or was cancelled.
    """
    search = lock_search(session, search_id)
    before = spec_of(search)
    written = before.model_dump(mode="json")
    spec = search_spec.parse_search_spec(written | {"budget": written["budget"] | dict(budget)})
    faults = [
        FieldError(pointer=f"/{name}", message=f"is {old} already; received {new}")
        for name in ("trials", "iterations", "wall_seconds")
        for old, new in [(getattr(before.budget, name), getattr(spec.budget, name))]
        if old is not None and new is not None and new < old
    ]
    if faults:
        raise InvalidInput("a budget is only extended", field_errors=tuple(faults))
    if spec.budget == before.budget:
        return search
    if search.state in {SearchState.FAILED, SearchState.CANCELLED}:
        raise IllegalTransition(f"search {search.id} has {search.state}; submit another")
    search.spec = spec.model_dump(mode="json")
    data = {"budget": search.spec["budget"]}
    append_event(session, search, SearchEventKind.CHANGED, data, now=now)
    if search.state in {SearchState.SUCCEEDED, SearchState.RUNNING}:
        # A driver has the number of trials from its beginning: another one goes on.
        transition(session, search, SearchState.QUEUED, now=now)
    return search


def delete(session: Session, search_id: str) -> list[str]:
    """Forgets a search that has ended with all its trials; the attempts, as of a deleted job.

    Conflict while it, one of its trials or its driver has not ended.
    """
    search = lock_search(session, search_id)
    if not search.state.is_final:
        raise Conflict(f"search {search.id} is {search.state}; cancel it first")
    if search.driver_id is not None:
        raise Conflict(f"the driver of search {search.id} is still being cleared away")
    attempts: list[str] = []
    for trial, job in list_trials(session, search_id):
        session.delete(trial)
        session.flush()
        attempts += retention.delete_job(session, job.id)
    session.execute(delete_rows(SearchRow).where(SearchRow.id == search.id))
    return attempts


def _unfinished(session: Session, search_id: str) -> list[tuple[TrialRow, JobRow]]:
    return [
        (trial, job)
        for trial, job in list_trials(session, search_id)
        if job.state not in FINAL_STATES
    ]


def _try_command(
    ask: Callable[..., JobRow], session: Session, job: JobRow, *, now: datetime
) -> bool:
    """False where somebody has asked the job for more than that before."""
    try:
        ask(session, job.id, now=now)
    except IllegalTransition:
        return False
    return True


def _check_trial(session: Session, spec: SearchSpec) -> None:
    try:
        submission.check_submission(session, spec.make_example())
    except InvalidInput as error:
        faults = tuple(
            FieldError(pointer=f"/job{fault.pointer}", message=fault.message)
            for fault in error.field_errors
        )
        raise type(error)(str(error), field_errors=faults) from error


def _find_by_idempotency_key(
    session: Session, idempotency_key: str, spec_sha256: str
) -> SearchRow | None:
    statement = select(SearchRow).where(SearchRow.idempotency_key == idempotency_key)
    earlier = session.scalar(statement)
    if earlier is not None and earlier.spec_sha256 != spec_sha256:
        raise IdempotencyMismatch(
            f"the idempotency key {idempotency_key!r} made search {earlier.id} from another body"
        )
    return earlier
