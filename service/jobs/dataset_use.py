"""Which jobs and searches use a dataset."""

import json

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.catalog import datasets
from service.errors import Conflict
from service.states import FINAL_STATES, SearchState
from service.storage.database import Lock, serialize
from service.storage.tables import JobRow, SearchRow
from service.storage.visibility import ALL_ROWS, find_visible
from service.text import count_of

_MAX_NAMED = 5


def count_jobs(session: Session) -> dict[str, int]:
    """Of those that the session sees, by name of the dataset."""
    rows = session.execute(select(JobRow.dataset, func.count()).group_by(JobRow.dataset))
    return {row[0]: row[1] for row in rows}


def keep_dataset(session: Session, name: str) -> None:
    """It is not deleted until the transaction ends, which may write a job that needs it."""
    if name.startswith(datasets.FOLDER_PREFIX):
        serialize(session.connection(), Lock.USE_DATASET, is_shared=True)


def require_unused(session: Session, name: str) -> None:
    """Conflict names the unfinished jobs and searches that need the dataset.

    No other transaction writes one until this one ends.
    """
    serialize(session.connection(), Lock.USE_DATASET)
    needing = [
        *session.scalars(
            select(JobRow.id)
            .where(JobRow.dataset == name, JobRow.state.not_in(FINAL_STATES))
            .order_by(JobRow.id)
            .execution_options(**ALL_ROWS)
        )
    ]
    searches = session.execute(
        select(SearchRow.id, SearchRow.spec)
        .where(SearchRow.state.not_in([state for state in SearchState if state.is_final]))
        .order_by(SearchRow.id)
        .execution_options(**ALL_ROWS)
    )
    # Trials of a search may have datasets of its space.
    written = json.dumps(name)
    found_searches = [search_id for search_id, spec in searches if written in json.dumps(spec)]
    if not needing and not found_searches:
        return
    visible = find_visible(session, JobRow, needing)
    named = [f"job {job_id}" for job_id in needing if job_id in visible]
    visible = find_visible(session, SearchRow, found_searches)
    named += [f"search {search_id}" for search_id in found_searches if search_id in visible]
    others = len(needing) + len(found_searches) - len(named[:_MAX_NAMED])
    listed = [*named[:_MAX_NAMED]]
    if others:
        listed.append(count_of(others, "other") if listed else count_of(others, "job"))
    raise Conflict(f"{name} is needed by {', '.join(listed)}; cancel or delete them first")
