"""Events of jobs and searches."""

import pytest

from service.jobs import commands
from service.storage import events
from service.storage.tables import JobRow, SearchRow
from tests.support.core import Core, job_id_of
from tests.support.searching import Searching


def _numbers_and_kinds(core: Core, subject: JobRow | SearchRow) -> list[tuple[int, str]]:
    with core.database.reading() as session:
        found = events.list_events_after(session, subject, 0, limit=100)
    return [(event.number, event.kind) for event in found]


def test_events_are_numbered_per_subject(core: Core) -> None:
    searching = Searching(core)
    search_id = searching.run()
    job_id = searching.assign_trial(search_id, "a").job_id
    core.cancel(job_id)
    searching.command("cancel", search_id)
    assert _numbers_and_kinds(core, core.job(job_id)) == [(1, "submitted"), (2, "state")]
    kinds = ["submitted", "state", "driver", "trial", "state"]
    expected = list(enumerate(kinds, start=1))
    assert _numbers_and_kinds(core, searching.row(search_id)) == expected


def test_events_are_read_after_a_number_up_to_a_limit(core: Core) -> None:
    job = core.job(job_id_of(core.run()))
    with core.database.reading() as session:
        found = events.list_events_after(session, job, 1, limit=2)
    assert [event.number for event in found] == [2, 3]


def test_an_event_is_rolled_back_with_its_change(core: Core) -> None:
    job_id = core.submit()
    with pytest.raises(ZeroDivisionError), core.database.transaction() as session:
        commands.hold(session, job_id, now=core.clock.now)
        raise ZeroDivisionError
    assert _numbers_and_kinds(core, core.job(job_id)) == [(1, "submitted")]
