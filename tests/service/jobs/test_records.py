"""Job rows: finding them, filters, and typed JSON columns."""

from datetime import timedelta
from typing import Any

import pytest

from service.errors import NotFound
from service.jobs import lifecycle, records
from service.jobs.records import JobFilter
from service.specs.job_spec import Retention
from service.specs.protocol import Progress
from service.states import JobState
from tests.support.core import Core, job_id_of


def _found(core: Core, **filters: Any) -> list[str]:
    with core.database.reading() as session:
        page = records.list_page(session, JobFilter(**filters), limit=100)
        return [job.name for job in page.rows]


def test_a_listed_job_matches_all_filters(core: Core) -> None:
    core.submit(name="one", tags=["a", "b"])
    core.submit(name="two", tags=["a"])
    core.submit(name="three", dataset="fake", tags=["a", "b"])
    assert _found(core, tags=["a"]) == ["three", "two", "one"]
    assert _found(core, tags=["a", "b"]) == ["three", "one"]
    assert _found(core, tags=["a", "b"], dataset="digits") == ["one"]
    assert _found(core, tags=["c"]) == []


def test_a_listed_job_has_any_of_the_states(core: Core) -> None:
    core.submit(name="waits")
    core.cancel(core.submit(name="cancelled"))
    assert _found(core, states=[JobState.CANCELLED]) == ["cancelled"]
    assert _found(core, states=[JobState.CANCELLED, JobState.QUEUED]) == ["cancelled", "waits"]


def test_wildcards_in_a_part_of_the_name_are_literal(core: Core) -> None:
    core.submit(name="50% of_it")
    core.submit(name="50 or more, fit")
    assert _found(core, name="0% of_") == ["50% of_it"]


def test_jobs_are_listed_by_the_prefix_of_their_id(core: Core) -> None:
    job_id = core.submit(name="one")
    assert _found(core, id_prefix=job_id[:12]) == ["one"]
    assert _found(core, id_prefix="zz") == []


@pytest.mark.parametrize("job_id", ["", "unknown", "0" * 16, "x\x00", "0e3k'; --"])
def test_an_unknown_job_is_not_found(core: Core, job_id: str) -> None:
    with core.database.reading() as session, pytest.raises(NotFound):
        records.find_job(session, job_id)
    with core.database.transaction() as session, pytest.raises(NotFound):
        lifecycle.lock_job(session, job_id)


def test_json_columns_are_read_as_types(core: Core) -> None:
    claimed = core.run(retention={"keep_best": 3}, max_restarts=4, time_limit_minutes=1.5)
    job_id = job_id_of(claimed)
    waiting = core.job(job_id)
    assert (records.progress_of(waiting), records.environment_of(waiting)) == (None, None)
    assert records.result_of(waiting) is None
    progress = Progress(iteration=3, iterations=9, images_per_second=8.0)
    core.report(claimed.attempt_id, 2, progress=progress)
    job = core.job(job_id)
    complete = records.spec_of(job)
    assert records.progress_of(job) == progress
    assert records.retention_of(job) == complete.retention == Retention(keep_best=3)
    assert records.max_restarts_of(job) == complete.max_restarts == 4
    assert records.batch_size_of(job) == complete.recipe.batch_size
    assert records.time_limit_of(job) == timedelta(minutes=complete.time_limit_minutes)
