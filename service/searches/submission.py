"""Submission of searches."""

from datetime import datetime

from sqlalchemy.orm import Session

from service import ids
from service.errors import FieldError, InvalidInput
from service.jobs import submission as job_submission
from service.specs import search_spec
from service.specs.search_spec import SearchSpec
from service.states import SearchState
from service.storage import events, idempotency
from service.storage.events import EventKind
from service.storage.idempotency import IdempotencyKey, Operation, Submission
from service.storage.tables import SearchRow


def submit(
    session: Session,
    spec: SearchSpec,
    *,
    user: str,
    now: datetime,
    idempotency_key: str | None = None,
) -> Submission[SearchRow]:
    """Creates the search; with a key that was used before, returns the search that it created.

    InvalidInput where a value of the space makes no valid spec, CannotFit where the cluster can
    never run a trial, IdempotencyMismatch for a key that was used with another spec.
    """
    # It may take seconds, so it comes before the first query begins the transaction.
    search_spec.check_search_spec(spec)
    key = IdempotencyKey.of(Operation.SUBMIT_SEARCH, idempotency_key, user=user, body=[spec])
    return idempotency.submit_once(
        session, SearchRow, lambda: _create(session, spec, user=user, now=now), key=key
    )


def _create(session: Session, spec: SearchSpec, *, user: str, now: datetime) -> SearchRow:
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
    )
    session.add(search)
    # Without an ORM relationship the session does not know that it must be inserted first.
    session.flush()
    events.append_event(session, search, EventKind.SUBMITTED, {"trials": spec.trials}, now=now)
    return search


def _check_trial(session: Session, spec: SearchSpec) -> None:
    try:
        job_submission.check_submission(session, spec.make_example())
    except InvalidInput as error:
        field_errors = tuple(
            FieldError(pointer=f"/job{field.pointer}", message=field.message)
            for field in error.field_errors
        )
        raise type(error)(str(error), field_errors=field_errors) from error
