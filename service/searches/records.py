"""Rows of searches: finding them, their trials, and their JSON columns as types."""

from sqlalchemy import select
from sqlalchemy.orm import Session, defer

from service import ids
from service.errors import NotFound
from service.specs.search_spec import SearchSpec
from service.states import FINAL_STATES
from service.storage import paging
from service.storage.paging import Page
from service.storage.tables import JobRow, SearchRow, TrialRow
from service.storage.visibility import VISIBLE_ROWS


def find_search(session: Session, search_id: str) -> SearchRow:
    search = None
    if ids.is_id(search_id):
        search = session.get(SearchRow, search_id, execution_options=VISIBLE_ROWS)
    if search is None:
        raise NotFound(f"no search {search_id!r}")
    return search


def list_ids_of(session: Session, user: str) -> list[str]:
    """Of all searches of this person."""
    return list(session.scalars(select(SearchRow.id).where(SearchRow.user == user)))


def list_page(
    session: Session,
    *,
    limit: int,
    token: str | None = None,
    id_prefix: str | None = None,
    archived: bool | None = None,
) -> Page[SearchRow]:
    """Newest first. `archived`: as in paging.read_page."""
    return paging.read_page(
        session, SearchRow, limit=limit, token=token, id_prefix=id_prefix, archived=archived
    )


def list_trials(session: Session, search_id: str) -> list[tuple[TrialRow, JobRow]]:
    """The jobs of all trials, by number and repeat; without their specs, which are large."""
    rows = session.execute(
        select(TrialRow, JobRow)
        .join(JobRow, JobRow.id == TrialRow.job_id)
        .where(TrialRow.search_id == search_id)
        .order_by(TrialRow.number, TrialRow.repeat)
        .options(defer(JobRow.spec))
    )
    return [(trial, job) for trial, job in rows]


def lock_unfinished_trials(session: Session, search_id: str) -> list[tuple[TrialRow, JobRow]]:
    """Those whose jobs have not ended, in the order of their jobs' ids, the jobs locked.

    So none of them ends, starts or stops before the transaction does.
    """
    rows = session.execute(
        select(TrialRow, JobRow)
        .join(JobRow, JobRow.id == TrialRow.job_id)
        .where(TrialRow.search_id == search_id, JobRow.state.not_in(FINAL_STATES))
        .order_by(JobRow.id)
        .with_for_update(of=JobRow)
        .execution_options(populate_existing=True)
    )
    return [(trial, job) for trial, job in rows]


def spec_of(search: SearchRow) -> SearchSpec:
    return SearchSpec.model_validate(search.spec)
