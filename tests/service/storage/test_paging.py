"""Pages of jobs and searches."""

import pytest
from sqlalchemy.orm import Session

from service.errors import (
    InvalidInput,
)
from service.jobs import records
from service.jobs.records import JobFilter
from service.searches import records as search_records
from tests.support.core import Core
from tests.support.searching import Searching


def _pages(core: Core, *, limit: int) -> list[list[str]]:
    pages: list[list[str]] = []
    token = None
    while True:
        with core.database.reading() as session:
            page = records.list_page(session, JobFilter(), limit=limit, token=token)
        pages.append([job.id for job in page.rows])
        if page.next_token is None:
            return pages
        token = page.next_token


def test_pages_contain_every_job_once_newest_first(core: Core) -> None:
    made = [core.submit() for _ in range(7)]
    assert _pages(core, limit=3) == [made[6:3:-1], made[3:0:-1], [made[0]]]


def test_a_job_created_between_two_pages_does_not_shift_them(core: Core) -> None:
    made = [core.submit() for _ in range(4)]
    with core.database.reading() as session:
        first = records.list_page(session, JobFilter(), limit=2)
    core.submit()
    with core.database.reading() as session:
        second = records.list_page(session, JobFilter(), limit=2, token=first.next_token)
    assert [job.id for job in [*first.rows, *second.rows]] == made[::-1]


def test_a_full_last_page_has_no_token(core: Core) -> None:
    made = [core.submit() for _ in range(2)]
    assert _pages(core, limit=2) == [made[::-1]]


def test_searches_are_paged_newest_first(searching: Searching) -> None:
    made = [searching.submit() for _ in range(3)]
    with searching.core.database.reading() as session:
        first = search_records.list_page(session, limit=2)
        assert [search.id for search in first.rows] == made[:0:-1]
        rest = search_records.list_page(session, limit=2, token=first.next_token)
        assert [search.id for search in rest.rows] == made[:1]
        assert rest.next_token is None


@pytest.mark.parametrize("token", ["", "!", "0" * 17, "\x00"])
def test_a_text_that_is_not_a_page_token_is_refused(core: Core, token: str) -> None:
    with core.database.reading() as session, pytest.raises(InvalidInput) as caught:
        records.list_page(session, JobFilter(), limit=1, token=token)
    (error,) = caught.value.field_errors
    assert (error.pointer, error.message) == (
        "/page_token",
        f"is not a valid page token: {token!r}",
    )


def test_lists_with_conditions_keep_no_compiled_statements(core: Core) -> None:
    """Callers combine them without end: each would be one more to keep."""
    kept: dict[object, object] = {}
    with core.database.engine.connect() as connection:
        session = Session(connection.execution_options(compiled_cache=kept))
        records.list_page(session, JobFilter(), limit=2)
        of_plain_list = len(kept)
        for wanted in (JobFilter(dataset="digits"), JobFilter(archived=True, ids=("0",))):
            records.list_page(session, wanted, limit=2)
            records.list_page(session, wanted, limit=2, sort="created_at")
    assert (of_plain_list, len(kept)) == (1, 1)
