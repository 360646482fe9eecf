"""Drivers: the Ray jobs in which Ray Tune decides for a search, one at a time for each.

A driver that has died is replaced. Its number is the fencing token: the credentials of an older
driver are refused.
"""

import hmac
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from service import ids
from service.access import tokens
from service.backoff import backoff
from service.errors import Unauthorized
from service.searches import searches, trials
from service.searches.searches import SearchEventKind
from service.specs.protocol import SearchDriverConfig
from service.states import SearchEndReason, SearchState
from service.storage.tables import SearchRow, TrialRow

_PREFIX = "search-"
# In a row, without a trial begun in between.
MAX_FAILURES = 5
# A dispatcher that died while it told the cluster is given up after this.
_SUBMISSION_TIMEOUT = timedelta(seconds=60)
# How old the row's word of a driver may be: a commit a heartbeat would wake everybody.
_HEARTBEAT_RECORD_SECONDS = 5.0

_WANTED = (SearchState.QUEUED, SearchState.RUNNING)


def driver_id(search: SearchRow) -> str:
    """Its submission id in the cluster."""
    return f"{_PREFIX}{search.id}-d{search.driver_number}"


@dataclass(frozen=True)
class DriverSubmission:
    """A driver that the cluster is to be told of; `secret` is its token."""

    search_id: str
    number: int
    driver_id: str
    secret: str


def take_startable(session: Session, *, now: datetime) -> list[DriverSubmission]:
    """Drivers for the searches that want one and have none; each is told the cluster once."""
    nobody = or_(SearchRow.driver_number == 0, SearchRow.driver_terminated_at.is_not(None))
    is_lost = SearchRow.driver_submitted_at.is_(None) & (
        SearchRow.driver_submission_started_at < now - _SUBMISSION_TIMEOUT
    )
    found = session.scalars(
        select(SearchRow)
        .where(
            SearchRow.state.in_(_WANTED),
            or_(nobody, is_lost),
            or_(SearchRow.driver_not_before.is_(None), SearchRow.driver_not_before <= now),
        )
        .order_by(SearchRow.id)
        .with_for_update(skip_locked=True)
    ).all()
    return [_begin_submission(search, now=now) for search in found]


def is_any_to_start(session: Session, *, now: datetime) -> bool:
    """A look without a lock."""
    statement = (
        select(SearchRow.id)
        .where(
            SearchRow.state.in_(_WANTED),
            or_(SearchRow.driver_number == 0, SearchRow.driver_terminated_at.is_not(None)),
            or_(SearchRow.driver_not_before.is_(None), SearchRow.driver_not_before <= now),
        )
        .limit(1)
    )
    return session.scalar(statement) is not None


def list_active(session: Session) -> list[SearchRow]:
    """The searches whose driver the cluster may have, oldest first."""
    statement = (
        select(SearchRow)
        .where(SearchRow.driver_number > 0, SearchRow.driver_terminated_at.is_(None))
        .order_by(SearchRow.id)
    )
    return list(session.scalars(statement))


def mark_submitted(session: Session, search_id: str, *, number: int, now: datetime) -> None:
    """The cluster knows the driver."""
    search = searches.lock_search(session, search_id)
    if search.driver_number == number:
        search.driver_submitted_at = search.driver_submitted_at or now


def mark_terminated(
    session: Session, search_id: str, *, number: int, message: str, now: datetime
) -> None:
    """The cluster is rid of it. One that had still something to do is followed by another."""
    search = searches.lock_search(session, search_id)
    if search.driver_number != number or search.driver_terminated_at is not None:
        return
    search.driver_terminated_at = now
    if search.driver_draining_since is not None or not search.state.wants_driver:
        return
    search.driver_failures += 1
    data = {"number": number, "died": message[:500], "failures": search.driver_failures}
    searches.append_event(session, search, SearchEventKind.DRIVER, data, now=now)
    if search.driver_failures >= MAX_FAILURES:
        why = f"{MAX_FAILURES} drivers in a row have died: {message}"[:2000]
        trials.finish_search(session, search, SearchEndReason.DRIVER, why=why, now=now)
        return
    search.driver_not_before = now + backoff(search.driver_failures, key=driver_id(search))


def authenticate(session: Session, name: str, secret: str) -> SearchRow:
    """Unauthorized unless the token is that of the search's present driver."""
    search_id, _, number = name.removeprefix(_PREFIX).partition("-d")
    is_name = name.startswith(_PREFIX) and ids.is_id(search_id) and number.isdecimal()
    search = session.get(SearchRow, search_id) if is_name else None
    known = search.driver_token_sha256 if search is not None else ""
    is_its_own = hmac.compare_digest(known, tokens.digest(secret))
    if search is None or not is_its_own or driver_id(search) != name:
        raise Unauthorized("the token is not this driver's")
    return search


def begin_driver(session: Session, search_id: str, *, now: datetime) -> SearchDriverConfig | None:
    """What a driver begins with; the search runs from then on. None where it is to leave."""
    search = searches.lock_search(session, search_id)
    if should_exit(search):
        return None
    if search.state is SearchState.QUEUED:
        searches.transition(session, search, SearchState.RUNNING, now=now)
    search.driver_heartbeat_at = now
    data = {"number": search.driver_number}
    searches.append_event(session, search, SearchEventKind.DRIVER, data, now=now)
    spec = searches.spec_of(search)
    statement = select(TrialRow).where(TrialRow.search_id == search.id).order_by(TrialRow.number)
    known = [trial.params for trial in session.scalars(statement)]
    return SearchDriverConfig(
        search_id=search.id,
        spec=spec,
        iterations=spec.iterations,
        evaluate_every=spec.example().recipe.evaluate_every,
        known=known,
    )


def record_heartbeat(session: Session, search_id: str, *, now: datetime) -> bool:
    """The driver's heartbeat: ends the search whose budget is used up. Whether it is to leave."""
    search = searches.lock_search(session, search_id)
    heard_at = search.driver_heartbeat_at
    if heard_at is None or now > heard_at + timedelta(seconds=_HEARTBEAT_RECORD_SECONDS):
        search.driver_heartbeat_at = now
        if search.state is SearchState.RUNNING:
            searches.resume_trials(session, search_id, now=now)
    if not should_exit(search):
        trials.enforce_budget(session, search, now=now)
    return should_exit(search)


def should_exit(search: SearchRow) -> bool:
    return search.driver_draining_since is not None or not search.state.wants_driver


def finish_driver(session: Session, search_id: str, *, message: str, now: datetime) -> None:
    """The driver's last word: every trial has ended. One that is to leave has none."""
    search = searches.lock_search(session, search_id)
    if should_exit(search):
        return
    trials.enforce_budget(session, search, now=now)
    if search.state is SearchState.RUNNING:
        trials.finish_search(session, search, SearchEndReason.TRIALS, why=message, now=now)


def _begin_submission(search: SearchRow, *, now: datetime) -> DriverSubmission:
    if search.driver_number == 0 or search.driver_terminated_at is not None:
        search.driver_number += 1
    secret = tokens.new_secret()
    search.driver_token_sha256 = tokens.digest(secret)
    search.driver_submission_started_at = now
    search.driver_submitted_at = None
    search.driver_heartbeat_at = None
    search.driver_draining_since = None
    search.driver_terminated_at = None
    return DriverSubmission(
        search_id=search.id, number=search.driver_number, driver_id=driver_id(search), secret=secret
    )
