"""Searches: submission, lists, one search with its trials, and actions on it."""

from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import APIRouter, BackgroundTasks, Body, Depends, Query, Response
from pydantic import Field

from api import event_streams, problems
from api.dependencies import (
    IdempotencyKey,
    Now,
    ReadSession,
    ServicesDep,
    User,
    WriteSession,
    authorize,
    set_submission_headers,
)
from api.field_selection import FieldSelection
from api.queries import EventQuery, FieldsQuery, PageQuery
from api.search_views import ImportanceList, SearchPage, SearchView, SelectedSearchPage, TrialList
from api.views import EventList
from service.access import audit
from service.errors import (
    CannotFit,
    Conflict,
    IdempotencyMismatch,
    IllegalTransition,
    NotFound,
    QuotaExceeded,
)
from service.jobs import checkpoints
from service.searches import commands, importance, ranking, records, submission
from service.searches import export as trial_export
from service.specs.job_spec import Priority
from service.specs.labels import LabelUpdate
from service.specs.search_spec import SearchSpec
from service.states import AuditKind
from service.storage import events

router = APIRouter(prefix="/v1/searches", tags=["searches"], dependencies=[Depends(authorize)])


class SearchUpdate(LabelUpdate):
    priority: Annotated[Priority | None, Field(description="of its trials")] = None


@router.post(
    "",
    status_code=HTTPStatus.CREATED,
    responses=problems.responses(CannotFit, IdempotencyMismatch, QuotaExceeded),
)
def submit_search(
    spec: SearchSpec,
    session: WriteSession,
    services: ServicesDep,
    now: Now,
    user: User,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> SearchView:
    """Submits a search. Every value of its space must make a valid job."""
    submitted = submission.submit(
        session,
        spec,
        user=user,
        data_dir=services.settings.data_dir,
        now=now,
        idempotency_key=idempotency_key,
    )
    search = submitted.row
    set_submission_headers(
        response, location=f"/v1/searches/{search.id}", is_replay=submitted.is_replay
    )
    return SearchView.of(search)


@router.get("")
def list_searches(
    session: ReadSession,
    page: PageQuery,
    fields: FieldsQuery = None,
) -> SearchPage | SelectedSearchPage:
    """Searches, newest first."""
    selection = FieldSelection(SearchView, fields, "searches") if fields is not None else None
    found = records.list_page(
        session,
        limit=page.limit,
        token=page.page_token,
        id_prefix=page.id_prefix,
        archived=page.archived,
    )
    views = [SearchView.of(search) for search in found.rows]
    if selection is not None:
        selected = [selection.pick(view.model_dump(mode="json")) for view in views]
        return SelectedSearchPage(searches=selected, next_page_token=found.next_token)
    return SearchPage(searches=views, next_page_token=found.next_token)


@router.get("/{search_id}", responses=problems.responses(NotFound))
def get_search(search_id: str, session: ReadSession, now: Now) -> SearchView:
    """A search with its best trial so far and the budget used."""
    search = records.find_search(session, search_id)
    return SearchView.of(search, ranking.read_progress(session, search, now=now))


@router.patch("/{search_id}", responses=problems.responses(NotFound, IllegalTransition))
def update_search(
    search_id: str, update: SearchUpdate, session: WriteSession, now: Now
) -> SearchView:
    """Changes the fields that are given; the priority for its unfinished and future trials."""
    search = commands.update_labels(session, search_id, update, now=now)
    if update.priority is not None:
        search = commands.change_priority(session, search_id, update.priority, now=now)
    return SearchView.of(search)


@router.delete(
    "/{search_id}",
    status_code=HTTPStatus.NO_CONTENT,
    responses=problems.responses(NotFound, Conflict),
)
def delete_search(
    search_id: str,
    session: WriteSession,
    services: ServicesDep,
    background: BackgroundTasks,
    now: Now,
) -> None:
    """Deletes a finished search with its trials and their metrics, logs and checkpoints."""
    owner = records.find_search(session, search_id).user
    attempt_ids = commands.delete(session, search_id)
    audit.record(session, AuditKind.SEARCH_DELETED, search_id, now=now, owner=owner)
    # Background tasks run after the commit.
    background.add_task(checkpoints.delete_artifacts, services.artifacts, attempt_ids)


@router.get("/{search_id}/trials", responses=problems.responses(NotFound))
def list_trials(search_id: str, session: ReadSession) -> TrialList:
    """Trials of the search, the best first."""
    search = records.find_search(session, search_id)
    return TrialList.of(ranking.rank_trials(session, search))


@router.get("/{search_id}/importance", responses=problems.responses(NotFound))
def get_importance(search_id: str, session: ReadSession) -> ImportanceList:
    """Each field's share of each metric's variance over the succeeded trials (fANOVA)."""
    search = records.find_search(session, search_id)
    trials = ranking.rank_trials(session, search)
    return ImportanceList.of(importance.compute_importance(records.spec_of(search), trials))


@router.get(
    "/{search_id}/export",
    response_model=TrialList,
    responses={
        HTTPStatus.OK: {"content": {"text/csv": {}}},
        **problems.responses(NotFound),
    },
)
def export_trials(
    search_id: str,
    session: ReadSession,
    format: Annotated[Literal["json", "csv"], Query()] = "json",  # noqa: A002 - the query's name
) -> TrialList | Response:
    """All trials as JSON, or as a CSV table."""
    search = records.find_search(session, search_id)
    trials = ranking.rank_trials(session, search)
    if format == "csv":
        table = trial_export.format_csv(records.spec_of(search), trials)
        return Response(table, media_type="text/csv")
    return TrialList.of(trials)


@router.get(
    "/{search_id}/events",
    response_model=EventList,
    responses={**event_streams.RESPONSES, **problems.responses(NotFound)},
)
def list_events(
    search_id: str, session: ReadSession, services: ServicesDep, query: EventQuery
) -> EventList | Response:
    """Events of the search; a live stream for `Accept: text/event-stream`."""
    search = records.find_search(session, search_id)
    if query.is_stream:
        return event_streams.follow_search(
            query.request, services, session, search, after=query.stream_after
        )
    found = events.list_events_after(session, search, query.after, limit=query.limit)
    return EventList.of(found, after=query.after)


@router.post(
    "/{search_id}/pause",
    status_code=HTTPStatus.ACCEPTED,
    responses=problems.responses(NotFound, IllegalTransition),
)
def pause_search(search_id: str, session: WriteSession, now: Now) -> SearchView:
    """No trial starts; running trials save a checkpoint and free their workers."""
    return SearchView.of(commands.pause(session, search_id, now=now))


@router.post("/{search_id}/resume", responses=problems.responses(NotFound, IllegalTransition))
def resume_search(search_id: str, session: WriteSession, now: Now) -> SearchView:
    """Its trials continue from their checkpoints."""
    return SearchView.of(commands.resume(session, search_id, now=now))


@router.post(
    "/{search_id}/cancel",
    status_code=HTTPStatus.ACCEPTED,
    responses=problems.responses(NotFound, IllegalTransition),
)
def cancel_search(search_id: str, session: WriteSession, now: Now) -> SearchView:
    """Cancels waiting trials at once; running ones save a checkpoint and stop."""
    return SearchView.of(commands.cancel(session, search_id, now=now))


@router.post("/{search_id}/extend", responses=problems.responses(NotFound, IllegalTransition))
def extend_search(
    search_id: str,
    session: WriteSession,
    now: Now,
    budget: Annotated[
        dict[str, Any],
        Body(description="fields of a budget, as new totals", examples=[{"trials": 20}]),
    ],
) -> SearchView:
    """Enlarges the budget; a search that has succeeded is queued again."""
    return SearchView.of(commands.extend(session, search_id, budget, now=now))
