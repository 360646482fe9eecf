"""Jobs that wait for others: let go, cancelled with what failed, in chains of any length."""

import threading

import pytest

from service.errors import InvalidInput
from service.jobs import records, submission
from service.states import JobState, Reason
from tests.support.core import Core, job_id_of, spec


def _after(*job_ids: str, condition: str = "ok") -> list[dict[str, str]]:
    return [{"job": job_id, "condition": condition} for job_id in job_ids]


def test_a_job_waits_until_all_that_it_needs_have_succeeded(core: Core) -> None:
    one, two = core.run(), core.run()
    waiting = core.submit(after=[job_id_of(one), job_id_of(two)])
    assert core.job(waiting).state is JobState.BLOCKED
    core.finish(one.attempt_id)
    assert core.job(waiting).state is JobState.BLOCKED
    core.finish(two.attempt_id)
    assert core.job(waiting).state is JobState.QUEUED


def test_a_failure_cancels_all_that_need_a_success(core: Core) -> None:
    failing = core.run()
    chain = [core.submit(after=[job_id_of(failing)])]
    for _ in range(2):
        chain.append(core.submit(after=[chain[-1]]))
    core.finish(failing.attempt_id, Reason.DIVERGED)
    for job_id, needed in zip(chain, [job_id_of(failing), *chain], strict=False):
        job = core.job(job_id)
        assert (job.state, job.reason) == (JobState.CANCELLED, Reason.DEPENDENCY_FAILED)
        assert needed in (job.message or "")


def test_a_job_that_needs_any_end_goes_on_after_a_failure(core: Core) -> None:
    failing = core.run()
    waiting = core.submit(after=_after(job_id_of(failing), condition="any"))
    core.finish(failing.attempt_id, Reason.DIVERGED)
    assert core.job(waiting).state is JobState.QUEUED


def test_a_held_job_stays_held_and_is_blocked_once_released(core: Core) -> None:
    needed = core.run()
    waiting = core.submit(after=[job_id_of(needed)], hold=True)
    core.command("release", waiting)
    assert core.job(waiting).state is JobState.BLOCKED
    core.command("hold", waiting)
    core.finish(needed.attempt_id)
    assert core.job(waiting).state is JobState.HELD
    core.command("release", waiting)
    assert core.job(waiting).state is JobState.QUEUED


def test_what_has_succeeded_already_is_not_waited_for(core: Core) -> None:
    needed = core.run()
    core.finish(needed.attempt_id)
    assert core.job(core.submit(after=[job_id_of(needed)])).state is JobState.QUEUED


def test_a_job_that_could_never_start_is_refused_with_the_place(core: Core) -> None:
    failed = core.run()
    core.finish(failed.attempt_id, Reason.DIVERGED)
    with pytest.raises(InvalidInput) as caught:
        core.submit(after=["zzz", job_id_of(failed)])
    told = {fault.pointer: fault.message for fault in caught.value.field_errors}
    assert told["/after/0/job"] == "no job 'zzz'"
    assert "has failed and can never succeed" in told["/after/1/job"]


def test_a_long_chain_falls_as_a_whole(core: Core) -> None:
    written = [spec()] + [spec(after=[f"#{number}"]) for number in range(299)]
    with core.database.transaction() as session:
        made = submission.submit_batch(session, written, user="ann", now=core.clock.now)
    core.cancel(made[0].row.id)
    assert core.job(made[-1].row.id).reason is Reason.DEPENDENCY_FAILED


def test_a_job_is_never_left_waiting_for_one_that_ends_while_it_is_submitted(core: Core) -> None:
    core.record_cluster(cpus=64)
    needed = [core.run() for _ in range(10)]
    together = threading.Barrier(2)

    def finish_all() -> None:
        together.wait()
        for claimed in needed:
            core.finish(claimed.attempt_id)

    finishing = threading.Thread(target=finish_all)
    finishing.start()
    together.wait()
    waiting = [core.submit(after=[job_id_of(claimed)]) for claimed in needed]
    finishing.join()
    assert {core.job(job_id).state for job_id in waiting} == {JobState.QUEUED}


def test_a_batch_keeps_its_order(core: Core) -> None:
    with core.database.transaction() as session:
        made = submission.submit_batch(
            session, [spec(seed=seed) for seed in range(20)], user="ann", now=core.clock.now
        )
    core.record_cluster(cpus=64)
    claimed = [core.job(job_id_of(core.claim())).spec["seed"] for _ in made]
    assert claimed == list(range(20))


def test_a_batch_with_one_wrong_job_saves_none(core: Core) -> None:
    with pytest.raises(InvalidInput) as caught, core.database.transaction() as session:
        submission.submit_batch(
            session, [spec(), spec(after=["#1"])], user="ann", now=core.clock.now
        )
    assert caught.value.field_errors[0].pointer == "/jobs/1/after/0/job"
    with core.database.reading() as session:
        assert records.list_page(session, limit=10).rows == []


def test_a_repeated_batch_finds_its_jobs(core: Core) -> None:
    written = [spec(), spec(after=["#0"])]
    made = []
    for _ in range(2):
        with core.database.transaction() as session:
            now = core.clock.now
            batch = submission.submit_batch(
                session, written, user="ann", now=now, idempotency_key="k"
            )
            made.append([submitted.row.id for submitted in batch])
        core.clock.advance(1.0)
    assert made[0] == made[1]


def test_a_clone_differs_in_what_was_changed_alone(core: Core) -> None:
    original = core.submit(depth=8, seed=3, recipe={"name": "quick", "momentum": 0.5})
    with core.database.transaction() as session:
        changes = {"depth": 110, "recipe": {"iterations": 300}}
        clone = submission.clone(session, original, changes, user="ben", now=core.clock.now).row
    made = records.spec_of(clone)
    assert made == spec(
        depth=110, seed=3, recipe={"name": "quick", "momentum": 0.5, "iterations": 300}
    )
    assert (clone.user, made.name) == ("ben", "resnet-110-A on digits")


def test_a_clone_of_a_chosen_name_keeps_it_and_waits_for_nothing(core: Core) -> None:
    needed = core.submit()
    original = core.submit(name="mine", after=[needed], hold=True)
    with core.database.transaction() as session:
        clone = submission.clone(session, original, {}, user="ann", now=core.clock.now).row
    assert (clone.name, clone.state) == ("mine", JobState.QUEUED)
