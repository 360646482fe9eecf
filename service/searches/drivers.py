"""Drivers: the Ray jobs in which Ray Tune decides for a search, one at a time for each search.

A driver that died is replaced. Its token is valid until it has terminated, so a driver that was
replaced cannot write.
"""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from service.backoff import backoff
from service.errors import Conflict
from service.execution import ray_job_lifecycle
from service.execution.ray_job_lifecycle import RayJobSubmission
from service.searches import budget, commands, lifecycle, records
from service.specs.protocol import SearchDriverConfig
from service.states import RayJobState, SearchEndReason, SearchState
from service.storage import events
from service.storage.events import EventKind
from service.storage.tables import DriverRow, SearchRow, TrialRow
from service.text import count_of

# In a row, without a trial assigned in between.
MAX_FAILURES = 5
# A heartbeat is recorded no more often: a commit for each would wake every listener.
_HEARTBEAT_RECORD_SECONDS = 5.0

_WANTS_DRIVER = (SearchState.QUEUED, SearchState.RUNNING)
_MUST_EXIT = (RayJobState.DRAINING, RayJobState.TERMINATED)


def is_any_startable(session: Session, *, now: datetime) -> bool:
    """Whether `take_startable` may find any; without a lock."""
    statement = select(SearchRow.id).where(*_may_need_driver(now)).limit(1)
    return session.scalar(statement) is not None


def take_startable(session: Session, *, now: datetime) -> list[RayJobSubmission[DriverRow]]:
    """Begins the submission of a driver for each search that wants one and has none."""
    found = session.scalars(
        select(SearchRow)
        .where(*_may_need_driver(now))
        .order_by(SearchRow.id)
        .with_for_update(skip_locked=True)
    ).all()
    drivers = [
        lifecycle.lock_driver(session, search) or _plan_driver(session, search, now=now)
        for search in found
    ]
    return [
        ray_job_lifecycle.begin_submission(driver, now=now)
        for driver in drivers
        if ray_job_lifecycle.is_startable(driver, now=now)
    ]


def mark_submitted(session: Session, driver_id: str, *, now: datetime) -> None:
    """Ray has the driver."""
    _, driver = _lock(session, driver_id)
    ray_job_lifecycle.mark_submitted(driver, now=now)


def begin_driver(session: Session, driver_id: str, *, now: datetime) -> None:
    """The search runs from now on. Conflict where the driver must exit."""
    search, driver = _lock(session, driver_id)
    _require_active(search, driver)
    if search.state is SearchState.QUEUED:
        lifecycle.transition(session, search, SearchState.RUNNING, now=now)
    ray_job_lifecycle.record_call(driver, now=now)
    data = {"number": driver.number}
    events.append_event(session, search, EventKind.DRIVER, data, now=now)


def build_config(session: Session, driver_id: str) -> SearchDriverConfig:
    """What a driver begins with. Takes no lock, since the space may take a second to resolve.

    Conflict where the driver must exit.
    """
    search = find_active_search(session, driver_id)
    if search is None:
        raise Conflict(f"its search no longer needs driver {driver_id}")
    spec = records.spec_of(search)
    statement = (
        select(TrialRow)
        .where(TrialRow.search_id == search.id, TrialRow.repeat == 0)
        .order_by(TrialRow.number)
    )
    known_params = [trial.params for trial in session.scalars(statement)]
    return SearchDriverConfig(
        search_id=search.id,
        spec=spec,
        max_iterations=spec.max_iterations,
        evaluate_every=spec.make_example().recipe.evaluate_every,
        known_params=known_params,
    )


def lock_active_search(session: Session, driver_id: str) -> SearchRow:
    """The search that the driver decides for, locked. Conflict where the driver must exit."""
    search, driver = _lock(session, driver_id)
    _require_active(search, driver)
    return search


def is_heartbeat_due(session: Session, driver_id: str, *, now: datetime) -> bool:
    """Whether `record_heartbeat` would change anything; without a lock."""
    search = find_active_search(session, driver_id)
    if search is None:
        return True
    driver = session.get(DriverRow, driver_id)
    assert driver is not None
    return _is_record_due(driver, now=now) or budget.is_used_up(session, search, now=now)


def record_heartbeat(session: Session, driver_id: str, *, now: datetime) -> bool:
    """Ends the search if its budget is used up. Returns whether the driver must exit."""
    search, driver = _lock(session, driver_id)
    if driver.state in _MUST_EXIT:
        return True
    if _is_record_due(driver, now=now):
        ray_job_lifecycle.record_call(driver, now=now)
        if search.state is SearchState.RUNNING:
            commands.resume_trials(session, search.id, now=now)
    budget.enforce_budget(session, search, now=now)
    return driver.state in _MUST_EXIT


def find_active_search(session: Session, driver_id: str) -> SearchRow | None:
    """As `lock_active_search`, without a lock; None where the driver must exit."""
    driver = session.get(DriverRow, driver_id)
    if driver is None or driver.state in _MUST_EXIT:
        return None
    return records.find_search(session, driver.search_id)


def finish_driver(session: Session, driver_id: str, *, message: str, now: datetime) -> None:
    """Ends the search: all its trials have ended. No change where the driver must exit."""
    search, driver = _lock(session, driver_id)
    if driver.state in _MUST_EXIT:
        return
    budget.enforce_budget(session, search, now=now)
    if search.state is SearchState.RUNNING:
        budget.finish_search(session, search, SearchEndReason.TRIALS, message=message, now=now)


def mark_terminated(session: Session, driver_id: str, *, message: str, now: datetime) -> None:
    """Ray has the driver no longer. Unless it was drained, that is a failure: another follows."""
    search, driver = _lock(session, driver_id)
    if driver.state is RayJobState.TERMINATED:
        return
    was_draining = driver.state is RayJobState.DRAINING
    ray_job_lifecycle.mark_terminated(session, driver, now=now)
    driver.token_sha256 = ""
    search.driver_id = None
    if was_draining:
        return
    search.driver_failures += 1
    data = {"number": driver.number, "died": message[:500], "failures": search.driver_failures}
    events.append_event(session, search, EventKind.DRIVER, data, now=now)
    if search.driver_failures >= MAX_FAILURES:
        message = f"{count_of(MAX_FAILURES, 'driver')} in a row died: {message}"[:2000]
        budget.finish_search(session, search, SearchEndReason.DRIVER, message=message, now=now)
        return
    search.driver_not_before = now + backoff(search.driver_failures, key=driver.id)


def _is_record_due(driver: DriverRow, *, now: datetime) -> bool:
    last = driver.last_seen_at
    return last is None or now > last + timedelta(seconds=_HEARTBEAT_RECORD_SECONDS)


def _may_need_driver(now: datetime) -> list[ColumnElement[bool]]:
    unsubmitted = select(DriverRow.id).where(ray_job_lifecycle.is_unsubmitted(DriverRow))
    return [
        SearchRow.state.in_(_WANTS_DRIVER),
        or_(SearchRow.driver_id.is_(None), SearchRow.driver_id.in_(unsubmitted)),
        or_(SearchRow.driver_not_before.is_(None), SearchRow.driver_not_before <= now),
    ]


def _plan_driver(session: Session, search: SearchRow, *, now: datetime) -> DriverRow:
    search.driver_number += 1
    driver = DriverRow(
        id=f"search-{search.id}-d{search.driver_number}",
        search_id=search.id,
        number=search.driver_number,
        state=RayJobState.PLANNED,
        token_sha256="",
        created_at=now,
    )
    session.add(driver)
    search.driver_id = driver.id
    return driver


def _lock(session: Session, driver_id: str) -> tuple[SearchRow, DriverRow]:
    """The search first: a driver is changed under the lock of its search."""
    search_id = session.scalar(select(DriverRow.search_id).where(DriverRow.id == driver_id))
    assert search_id is not None, "authenticated, or read from the table"
    search = lifecycle.lock_search(session, search_id)
    return search, ray_job_lifecycle.lock_row(session, DriverRow, driver_id)


def _require_active(search: SearchRow, driver: DriverRow) -> None:
    if driver.state in _MUST_EXIT:
        raise Conflict(f"search {search.id} no longer needs driver {driver.number}")
