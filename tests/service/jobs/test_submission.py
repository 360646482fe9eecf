"""Submission: one job, a batch, a clone, and dependencies."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import delete

from service.errors import InvalidInput
from service.jobs import lifecycle, records, submission
from service.jobs.records import JobFilter
from service.states import JobState, Reason
from service.storage.tables import JobRow
from tests.support.core import NO_DATA, Core, job_id_of, spec, workers
from tests.support.locks import wait_for_blocked_transaction
from tests.support.statements import recorded_statements


def test_a_submitted_job_is_queued_with_its_complete_spec(core: Core) -> None:
    job = core.job(core.submit(name="first", priority=70))
    assert job.state is JobState.QUEUED
    assert job.priority == 70
    assert records.spec_of(job) == spec(name="first", priority=70)
    assert job.created_at == core.clock.now
    assert [event.kind for event in core.events(job.id)] == ["submitted"]


def test_a_job_with_hold_is_held_until_it_is_released(core: Core) -> None:
    core.record_cluster(cpus=1)
    job_id = core.submit(hold=True)
    assert core.job(job_id).state is JobState.HELD
    assert core.try_claim() is None
    core.command("release", job_id)
    assert job_id_of(core.claim()) == job_id


def test_a_job_whose_dependency_has_succeeded_is_queued(core: Core) -> None:
    needed = core.run()
    core.finish(needed.attempt_id)
    assert core.job(core.submit(after=[job_id_of(needed)])).state is JobState.QUEUED


def test_a_dependency_that_can_never_be_met_is_refused_with_its_pointer(core: Core) -> None:
    failed = core.run()
    core.finish(failed.attempt_id, Reason.DIVERGED)
    with pytest.raises(InvalidInput) as caught:
        core.submit(after=["zzz", job_id_of(failed)])
    messages = {error.pointer: error.message for error in caught.value.field_errors}
    assert messages["/after/0/job"] == "no job 'zzz'"
    assert "has failed and can never succeed" in messages["/after/1/job"]


def test_a_batch_keeps_its_order(core: Core) -> None:
    with core.database.transaction() as session:
        made = submission.submit_batch(
            session,
            [spec(seed=seed) for seed in range(20)],
            user="ann",
            data_dir=NO_DATA,
            now=core.clock.now,
        )
    core.record_cluster(cpus=64)
    claimed = [core.job(job_id_of(core.claim())).spec["seed"] for _ in made]
    assert claimed == list(range(20))


def test_a_batch_with_an_invalid_job_creates_none(core: Core) -> None:
    with pytest.raises(InvalidInput) as caught, core.database.transaction() as session:
        submission.submit_batch(
            session, [spec(), spec(after=["#1"])], user="ann", data_dir=NO_DATA, now=core.clock.now
        )
    assert caught.value.field_errors[0].pointer == "/jobs/1/after/0/job"
    with core.database.reading() as session:
        assert records.list_page(session, JobFilter(), limit=10).rows == []


def test_a_repeated_batch_returns_its_jobs(core: Core) -> None:
    written = [spec(), spec(after=["#0"])]
    made = []
    for _ in range(2):
        with core.database.transaction() as session:
            now = core.clock.now
            batch = submission.submit_batch(
                session, written, user="ann", data_dir=NO_DATA, now=now, idempotency_key="k"
            )
            made.append([submitted.row.id for submitted in batch])
        core.clock.advance(1.0)
    assert made[0] == made[1]


def test_a_repeated_batch_returns_those_of_its_jobs_that_are_left(core: Core) -> None:
    key: Any = {"user": "ann", "data_dir": NO_DATA, "now": core.clock.now, "idempotency_key": "k"}
    batch = [spec(), spec(seed=1)]
    with core.database.transaction() as session:
        first, second = submission.submit_batch(session, batch, **key)
    with core.database.transaction() as session:
        session.execute(delete(JobRow).where(JobRow.id == first.row.id))
    with core.database.transaction() as session:
        (left,) = submission.submit_batch(session, batch, **key)
    assert left.is_replay
    assert left.row.id == second.row.id


def test_a_batch_needs_as_many_statements_as_a_job(core: Core) -> None:
    core.record_cluster(cpus=64)
    core.submit(user="ann")

    def count_statements(num_jobs: int) -> int:
        specs = [spec(seed=seed, tags=["many"]) for seed in range(num_jobs)]
        with (
            recorded_statements(core.database) as statements,
            core.database.transaction() as session,
        ):
            submission.submit_batch(
                session, specs, user="ann", data_dir=NO_DATA, now=core.clock.now
            )
        return len(statements)

    assert count_statements(20) == count_statements(1)


def test_a_clone_has_the_spec_of_the_original_with_the_changes(core: Core) -> None:
    original = core.submit(depth=8, seed=3, recipe={"name": "quick", "momentum": 0.5})
    with core.database.transaction() as session:
        changes = {"depth": 110, "recipe": {"iterations": 300}}
        clone = submission.clone(
            session, original, changes, user="ben", data_dir=NO_DATA, now=core.clock.now
        ).row
    made = records.spec_of(clone)
    assert made == spec(
        depth=110, seed=3, recipe={"name": "quick", "momentum": 0.5, "iterations": 300}
    )
    assert (clone.user, made.name) == ("ben", "resnet-110-A on digits")


def test_the_micro_batch_of_a_clone_follows_its_workers_and_batch(core: Core) -> None:
    original = core.submit(
        depth=18,
        dataset="folder:birds",
        recipe={"name": "paper-imagenet", "batch_size": 200},
        resources=workers(5),
    )
    assert core.job(original).spec["recipe"]["micro_batch_size"] == 20
    changes = {"recipe": {"batch_size": 18}, "resources": workers(2)}
    with core.database.transaction() as session:
        clone = submission.clone(
            session, original, changes, user="ann", data_dir=NO_DATA, now=core.clock.now
        ).row
    assert clone.spec["recipe"]["micro_batch_size"] == 18


def test_a_clone_keeps_a_chosen_name_but_no_dependencies_or_hold(core: Core) -> None:
    needed = core.submit()
    original = core.submit(name="mine", after=[needed], hold=True)
    with core.database.transaction() as session:
        clone = submission.clone(
            session, original, {}, user="ann", data_dir=NO_DATA, now=core.clock.now
        ).row
    assert (clone.name, clone.state) == ("mine", JobState.QUEUED)


def test_submissions_that_refer_to_the_same_jobs_in_different_orders_do_not_deadlock(
    core: Core,
) -> None:
    if core.database.is_sqlite:
        pytest.skip("its transactions come one after the other")
    older, newer = core.submit(), core.submit()

    def submit_batch() -> int:
        batch = [spec(after=[newer]), spec(after=[older])]
        with core.database.transaction() as session:
            return len(
                submission.submit_batch(
                    session, batch, user="ann", data_dir=NO_DATA, now=core.clock.now
                )
            )

    with ThreadPoolExecutor() as pool:
        with core.database.transaction() as session:
            lifecycle.lock_job(session, older)
            submitted = pool.submit(submit_batch)
            wait_for_blocked_transaction(core.database)
            # PostgreSQL ends one of two transactions that wait for each other.
            lifecycle.lock_job(session, newer)
        assert submitted.result() == 2
