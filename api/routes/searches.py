"""Searches: submit, find, follow, steer."""

from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, BackgroundTasks, Body, Depends, Header, Query, Request, Response

from api import event_streams
from api.dependencies import (
    IdempotencyKey,
    Now,
    ReadSession,
    ServicesDep,
    User,
    WriteSession,
    authenticate_user,
    set_submission_headers,
)
from api.routes.job_actions import Change
from api.search_views import ImportanceList, SearchPage, SearchView, TrialList
from api.views import EventList, EventView
from service import ids
from service.errors import FieldError, InvalidInput
from service.jobs import checkpoints
from service.searches import export as search_export
from service.searches import importance, searches, trials
from service.specs.search_spec import SearchSpec

router = APIRouter(
    prefix="/v1/searches", tags=["searches"], dependencies=[Depends(authenticate_user)]
)


@router.post("", status_code=HTTPStatus.CREATED)
def submit(
    spec: SearchSpec,
    session: WriteSession,
    now: Now,
    user: User,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> SearchView:
    """Saves a search, every value of whose space makes a legal job."""
    made = searches.submit(session, spec, user=user, now=now, idempotency_key=idempotency_key)
    set_submission_headers(
        response, location=f"/v1/searches/{made.search.id}", is_replay=made.is_replay
    )
    return SearchView.of(made.search)


@router.get("")
def page(
    session: ReadSession,
    id_prefix: Annotated[str | None, Query(max_length=16)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    page_token: str | None = None,
) -> SearchPage:
    """Newest first."""
    if page_token is not None and not ids.is_id(page_token):
        fault = FieldError(pointer="/page_token", message=f"is not of this service: {page_token!r}")
        raise InvalidInput("the request is not valid", field_errors=(fault,))
    if id_prefix is not None and not ids.is_id(id_prefix):
        return SearchPage(searches=[], next_page_token=None)
    found = searches.list_page(session, limit=limit, before_id=page_token, id_prefix=id_prefix)
    views = [SearchView.of(search) for search in found.searches]
    return SearchPage(searches=views, next_page_token=found.next_id)


@router.get("/{search_id}")
def show(search_id: str, session: ReadSession, now: Now) -> SearchView:
    """With its best trial so far, and how much of its budget is used."""
    search = searches.find_search(session, search_id)
    return SearchView.of(search, trials.read_progress(session, search, now=now))


@router.patch("/{search_id}")
def change(search_id: str, wanted: Change, session: WriteSession, now: Now) -> SearchView:
    """Changes the priority of its trials, those to come and those that have not ended."""
    changed = searches.change_priority(session, search_id, wanted.priority, now=now)
    return SearchView.of(changed)


@router.delete("/{search_id}", status_code=HTTPStatus.NO_CONTENT)
def delete(search_id: str, held: ServicesDep, background: BackgroundTasks) -> None:
    """Forgets a search that has ended, with all its trials and what they have left."""
    with held.database.transaction() as session:
        attempts = searches.delete(session, search_id)
    # After the commit: rows must never promise bytes that are gone.
    background.add_task(checkpoints.delete_artifacts, held.artifacts, attempts)


@router.get("/{search_id}/trials")
def list_trials(search_id: str, session: ReadSession) -> TrialList:
    """The best first."""
    search = searches.find_search(session, search_id)
    return TrialList.of(trials.read_progress(session, search, now=None))


@router.get("/{search_id}/importance")
def read_importance(search_id: str, session: ReadSession) -> ImportanceList:
    """How much each field matters: its share of each metric's variance over succeeded trials."""
    search = searches.find_search(session, search_id)
    found = importance.of_search(searches.spec_of(search), trials.rank_trials(session, search))
    return ImportanceList.of(found)


@router.get("/{search_id}/export", response_model=TrialList)
def export(
    search_id: str,
    session: ReadSession,
    format: Annotated[Literal["json", "csv", "tensorboard"], Query()] = "json",  # noqa: A002 - the query's name
) -> TrialList | Response:
    """All trials as a table, or as a zip of TensorBoard's HParams."""
    search = searches.find_search(session, search_id)
    standing = trials.read_progress(session, search, now=None)
    if format == "csv":
        text = search_export.as_csv(searches.spec_of(search), standing.trials)
        return Response(text, media_type="text/csv")
    if format == "tensorboard":
        packed = search_export.as_tensorboard(standing.trials)
        return Response(packed, media_type="application/zip")
    return TrialList.of(standing)


@router.get("/{search_id}/events", response_model=EventList)
def read_events(
    search_id: str,
    request: Request,
    held: ServicesDep,
    session: ReadSession,
    after: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    last_event_id: Annotated[int | None, Header(ge=0, le=2**31 - 1)] = None,
) -> EventList | Response:
    """What happened to the search; as a live stream where text/event-stream is accepted."""
    searches.find_search(session, search_id)
    if "text/event-stream" in request.headers.get("Accept", ""):
        start = after if last_event_id is None else last_event_id
        return event_streams.follow_search(held, search_id, after=start)
    found = searches.list_events_after(session, search_id, after, limit=limit)
    return EventList(events=[EventView.model_validate(event) for event in found])


@router.post("/{search_id}/pause", status_code=HTTPStatus.ACCEPTED)
def pause(search_id: str, session: WriteSession, now: Now) -> SearchView:
    """No trial begins; those that run save a checkpoint and free their workers."""
    return SearchView.of(searches.pause(session, search_id, now=now))


@router.post("/{search_id}/resume")
def resume(search_id: str, session: WriteSession, now: Now) -> SearchView:
    """Its trials go on from their checkpoints."""
    return SearchView.of(searches.resume(session, search_id, now=now))


@router.post("/{search_id}/cancel", status_code=HTTPStatus.ACCEPTED)
def cancel(search_id: str, session: WriteSession, now: Now) -> SearchView:
    """With its trials: waiting ones at once, running ones save a checkpoint and stop."""
    return SearchView.of(searches.cancel(session, search_id, now=now))


@router.post("/{search_id}/extend")
def extend(
    search_id: str,
    session: WriteSession,
    now: Now,
    budget: Annotated[dict[str, Any], Body(description="fields of a budget, in new totals")],
) -> SearchView:
    """A larger budget; a search that has succeeded goes on."""
    return SearchView.of(searches.extend(session, search_id, budget, now=now))
