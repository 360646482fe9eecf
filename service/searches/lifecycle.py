"""The state of a search: this module is its only writer, and writes the event with it."""

from datetime import datetime

from sqlalchemy.orm import Session

from service import ids
from service.errors import IllegalTransition, NotFound
from service.execution import ray_job_lifecycle
from service.states import NEXT_SEARCH_STATES, RayJobState, SearchEndReason, SearchState
from service.storage import events
from service.storage.events import EventKind
from service.storage.tables import DriverRow, SearchRow
from service.storage.visibility import VISIBLE_ROWS


def lock_search(session: Session, search_id: str) -> SearchRow:
    """The search, locked until the transaction ends. On SQLite a transaction locks the database."""
    if not ids.is_id(search_id):
        raise NotFound(f"no search {search_id!r}")
    search = session.get(
        SearchRow,
        search_id,
        with_for_update=True,
        populate_existing=True,
        execution_options=VISIBLE_ROWS,
    )
    if search is None:
        raise NotFound(f"no search {search_id!r}")
    return search


def lock_driver(session: Session, search: SearchRow) -> DriverRow | None:
    """The driver of a locked search, locked as well; None where it has none."""
    if search.driver_id is None:
        return None
    return ray_job_lifecycle.lock_row(session, DriverRow, search.driver_id)


def transition(
    session: Session,
    search: SearchRow,
    state: SearchState,
    *,
    now: datetime,
    end_reason: SearchEndReason | None = None,
    message: str | None = None,
) -> None:
    """Changes the state of a locked search. IllegalTransition where its state does not allow it.

    Drains its driver, where it has one, unless the search begins to run under it.
    """
    if state not in NEXT_SEARCH_STATES[search.state]:
        raise IllegalTransition(f"search {search.id} is {search.state} and cannot become {state}")
    data = {"from": search.state, "to": state, "end_reason": end_reason, "message": message}
    if search.active_since is not None:
        search.active_seconds = count_active_seconds(search, now=now)
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
    events.append_event(session, search, EventKind.STATE, data, now=now)


def count_active_seconds(search: SearchRow, *, now: datetime) -> float:
    """The total time in which it was running."""
    since = search.active_since
    return search.active_seconds + ((now - since).total_seconds() if since is not None else 0.0)
