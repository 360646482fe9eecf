"""Idempotency keys of jobs, batches and searches."""

import threading

import pytest

from service.errors import IdempotencyMismatch
from service.jobs import records, retention, submission
from service.jobs.records import JobFilter
from service.storage.database import Database
from tests.support.core import NO_DATA, START, Core, spec
from tests.support.locks import wait_for_blocked_transaction
from tests.support.searching import Searching


def test_a_repeated_key_returns_the_first_job(core: Core) -> None:
    first = core.submit(key="k1")
    assert core.submit(key="k1") == first
    with core.database.reading() as session:
        assert [job.id for job in records.list_page(session, JobFilter(), limit=10).rows] == [first]


def test_a_key_with_another_body_is_refused(core: Core) -> None:
    core.submit(key="k1")
    with pytest.raises(IdempotencyMismatch, match="'k1'"):
        core.submit(key="k1", seed=7)


def test_without_a_key_each_submission_creates_a_job(core: Core) -> None:
    assert core.submit() != core.submit()


def test_a_repeated_key_returns_the_first_search(searching: Searching) -> None:
    first = searching.submit(key="once")
    assert searching.submit(key="once") == first
    with pytest.raises(IdempotencyMismatch, match=first):
        searching.submit(key="once", seed=1)


def test_keys_of_jobs_batches_and_searches_are_independent(core: Core) -> None:
    core.submit(key="k")
    with core.database.transaction() as session:
        (batch,) = submission.submit_batch(
            session, [spec()], user="ann", data_dir=NO_DATA, now=core.clock.now, idempotency_key="k"
        )
    assert not batch.is_replay
    searching = Searching(core)
    assert searching.submit(key="k") == searching.submit(key="k")


def test_keys_of_users_are_independent(core: Core) -> None:
    first = core.submit(key="k", user="ann")
    assert core.submit(key="k", user="ben", seed=7) != first


def test_a_clone_and_a_submission_may_have_the_same_key(core: Core) -> None:
    first = core.submit(key="k")
    with core.database.transaction() as session:
        clone = submission.clone(
            session,
            first,
            {},
            user="ann",
            data_dir=NO_DATA,
            now=core.clock.now,
            idempotency_key="k",
        )
    assert not clone.is_replay


def test_a_batch_with_one_more_job_is_another_body(core: Core) -> None:
    def submit(count: int) -> None:
        with core.database.transaction() as session:
            specs = [spec()] * count
            submission.submit_batch(
                session,
                specs,
                user="ann",
                data_dir=NO_DATA,
                now=core.clock.now,
                idempotency_key="k",
            )

    submit(2)
    submit(2)
    with pytest.raises(IdempotencyMismatch):
        submit(3)


def test_the_key_of_a_deleted_job_can_be_used_again(core: Core) -> None:
    first = core.submit(key="k")
    core.cancel(first)
    with core.database.transaction() as session:
        retention.delete_job(session, first)
    assert core.submit(key="k", seed=7) != first


def test_one_key_in_four_threads_creates_one_job(core: Core) -> None:
    made: list[str] = []
    together = threading.Barrier(4)

    def submit() -> None:
        together.wait()
        with core.database.transaction() as session:
            submitted = submission.submit(
                session,
                spec(),
                user="ann",
                data_dir=NO_DATA,
                now=core.clock.now,
                idempotency_key="k",
            )
        made.append(submitted.row.id)

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert len(set(made)) == 1
    assert [event.kind for event in core.events(made[0])] == ["submitted"]


def test_a_request_that_waited_for_the_first_one_is_a_replay(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("its transactions come one after the other")
    core_spec = spec()
    replays: list[bool] = []

    def submit() -> None:
        with database.transaction() as session:
            again = submission.submit(
                session, core_spec, user="ann", data_dir=NO_DATA, now=START, idempotency_key="k"
            )
            replays.append(again.is_replay)

    with database.transaction() as session:
        submission.submit(
            session, core_spec, user="ann", data_dir=NO_DATA, now=START, idempotency_key="k"
        )
        session.flush()
        second = threading.Thread(target=submit)
        second.start()
        wait_for_blocked_transaction(database)
    second.join()
    assert replays == [True]
