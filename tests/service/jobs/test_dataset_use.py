"""A dataset is deleted only while no transaction writes a job that needs it."""

import threading
from typing import Any

import pytest

from service.errors import Conflict
from service.jobs import dataset_use, submission
from tests.support.core import Core, job_id_of, spec
from tests.support.locks import wait_for_blocked_transaction

NAME = "folder:birds"


def test_jobs_of_every_state_need_their_dataset_until_they_have_ended(core: Core) -> None:
    fields: dict[str, Any] = {"depth": 18, "shortcut": "B", "dataset": NAME}
    running = core.run(**fields)
    paused, queued = core.submit(**fields), core.submit(**fields)
    core.command("pause", paused)
    held, blocked = core.submit(hold=True, **fields), core.submit(after=[queued], **fields)
    core.submit(dataset="digits")
    waiting = [paused, queued, held, blocked]
    assert [core.job(job_id).state for job_id in waiting] == ["paused", "queued", "held", "blocked"]
    needing = [job_id_of(running), *waiting]
    core.finish(running.attempt_id)
    for ended, needed in ((None, waiting), (blocked, waiting[:3]), (held, waiting[:2])):
        if ended is not None:
            core.cancel(ended)
        with pytest.raises(Conflict) as refused, core.database.transaction() as session:
            dataset_use.require_unused(session, NAME)
        listed = ", ".join(f"job {job_id}" for job_id in needed)
        assert str(refused.value) == f"{NAME} is needed by {listed}; cancel or delete them first"
    for job_id in waiting[:2]:
        core.cancel(job_id)
    with core.database.transaction() as session:
        dataset_use.require_unused(session, NAME)
        assert dataset_use.count_jobs(session)[NAME] == len(needing)


def test_a_deletion_waits_for_a_submission_that_needs_the_dataset(core: Core) -> None:
    written = spec(depth=18, shortcut="B", dataset=NAME)
    refusals: list[str] = []

    def delete() -> None:
        with pytest.raises(Conflict) as refused, core.database.transaction() as session:
            dataset_use.require_unused(session, NAME)
        refusals.append(str(refused.value))

    deletion = threading.Thread(target=delete)
    with core.database.transaction() as session:
        submitted = submission.submit(
            session, written, user="ann", data_dir=core.data_dir, now=core.clock.now
        )
        deletion.start()
        if not core.database.is_sqlite:
            wait_for_blocked_transaction(core.database)
    deletion.join()
    job_id = submitted.row.id
    assert refusals == [f"{NAME} is needed by job {job_id}; cancel or delete them first"]


def test_submissions_that_need_one_dataset_do_not_wait_for_each_other(core: Core) -> None:
    if core.database.is_sqlite:
        pytest.skip("a transaction that writes excludes all others")
    with core.database.transaction() as first, core.database.transaction() as second:
        dataset_use.keep_dataset(first, NAME)
        dataset_use.keep_dataset(second, NAME)
