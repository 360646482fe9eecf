"""Admission against a database: aging, backfill by measured times, preemption, limits."""

import pytest

from service.access import people
from service.jobs import retention
from service.states import JobState, Reason, StopReason
from tests.support.core import Core, job_id_of, make_point, note, workers

STEPS = 100
QUICK = {"name": "quick", "iterations": STEPS}


def measure(core: Core, *, seconds_per_step: float) -> None:
    """Runs a job alone at that rate; its first report comes at once."""
    claimed = core.run(recipe=QUICK)
    core.clock.advance(STEPS * seconds_per_step)
    last = make_point(series="train/loss", iteration=STEPS, value=0.5)
    core.report(claimed.attempt_id, 2, metrics=[last])
    core.finish(claimed.attempt_id)
    core.release(claimed)


def test_a_point_of_priority_is_worth_ten_minutes_of_waiting(core: Core) -> None:
    core.submit(name="old", priority=50)
    core.clock.advance(10 * 600.0)
    core.submit(name="young, ten points more", priority=60)
    core.submit(name="young, eleven points more", priority=61)
    core.record_cluster(cpus=8)
    assert core.start_all() == ["young, eleven points more", "old", "young, ten points more"]


def test_a_changed_priority_counts_as_if_submitted_with_it(core: Core) -> None:
    core.submit(name="first")
    second = core.submit(name="second")
    core.command("change_priority", second, 51)
    assert core.job(second).spec["priority"] == core.job(second).priority == 51
    assert core.events(second)[-1].data == {"priority": {"from": 50, "to": 51}}
    core.record_cluster(cpus=8)
    assert core.start_all() == ["second", "first"]


def test_a_job_that_is_measured_to_fit_is_backfilled(core: Core) -> None:
    measure(core, seconds_per_step=1.0)
    core.record_cluster(cpus=4)
    core.submit(
        name="runs", recipe=QUICK | {"iterations": 300}, resources=workers(2, cpus_per_worker=1)
    )
    running = core.start_next()
    core.report(running.attempt_id, 1)
    core.clock.advance(100.0)
    at = make_point(series="train/loss", iteration=100, value=0.5)
    core.report(running.attempt_id, 2, metrics=[at])
    core.submit(name="head", resources=workers(4))
    core.submit(name="too long", recipe=QUICK | {"iterations": 201})
    core.submit(name="never seen before", shortcut="B", resources=workers(1, cpus_per_worker=2))
    core.submit(name="short enough", recipe=QUICK | {"iterations": 190})
    assert core.start_all() == ["short enough"]


def test_an_overdue_backfilled_job_returns_to_the_queue_without_a_restart(core: Core) -> None:
    measure(core, seconds_per_step=1.0)
    core.record_cluster(cpus=2)
    core.submit(name="runs", recipe=QUICK)
    first = core.start_next()
    core.report(first.attempt_id, 1)
    core.submit(name="head", resources=workers(2))
    core.submit(name="short", recipe=QUICK | {"iterations": 90})
    short = core.start_next()
    assert core.attempt(short.attempt_id).backfill_deadline is not None
    core.clock.advance(100.0)
    core.finish(first.attempt_id)
    core.release(first)
    assert core.start_all() == []
    assert core.report(short.attempt_id, 1).stop_reason is StopReason.PREEMPT
    assert core.finish(short.attempt_id, Reason.PREEMPTED) is JobState.QUEUED
    core.release(short)
    assert core.start_all() == ["head"]
    job = core.job(job_id_of(short))
    assert (job.preemptions, job.restarts, job.infra_restarts, job.not_before) == (1, 0, 0, None)


def test_an_urgent_job_preempts_a_preemptible_one(core: Core) -> None:
    core.record_cluster(cpus=1)
    core.submit(name="meek", priority=10, preemptible=True, recipe=QUICK)
    meek = core.start_next()
    core.report(meek.attempt_id, 1)
    core.submit(name="urgent", priority=90)
    assert core.try_claim() is None
    assert core.job(job_id_of(meek)).stop_requested is StopReason.PREEMPT
    core.report(meek.attempt_id, 2, checkpoints=[note(40)])
    assert core.finish(meek.attempt_id, Reason.PREEMPTED) is JobState.QUEUED
    assert core.try_claim() is None, "its workers are not free yet"
    core.release(meek)
    urgent = core.claim()
    assert core.job(job_id_of(urgent)).name == "urgent"
    core.end(urgent, Reason.DIVERGED)
    core.release(urgent)
    again = core.claim()
    assert job_id_of(again) == job_id_of(meek)
    assert core.attempt(again.attempt_id).first_iteration == 40


def test_a_preempted_job_that_completes_first_has_succeeded(core: Core) -> None:
    core.record_cluster(cpus=1)
    core.submit(priority=10, preemptible=True)
    meek = core.start_next()
    core.report(meek.attempt_id, 1)
    core.submit(priority=90)
    core.try_claim()
    assert core.finish(meek.attempt_id) is JobState.SUCCEEDED
    assert core.job(job_id_of(meek)).preemptions == 0


def test_running_jobs_of_a_user_are_limited(core: Core) -> None:
    core.set_quota("user:*", jobs=1)
    core.record_cluster(cpus=8)
    core.submit(name="ann's first", user="ann")
    core.submit(name="ann's second", user="ann")
    core.submit(name="ben's", user="ben")
    assert core.start_all() == ["ann's first", "ben's"]


def test_running_gpus_of_a_user_are_limited(core: Core) -> None:
    core.set_quota("user:ann", gpus=1.5)
    core.record_cluster(cpus=8, gpus=4)
    core.submit(name="one", user="ann", resources=workers(1, gpus_per_worker=1))
    core.submit(name="a second", user="ann", resources=workers(1, gpus_per_worker=1))
    core.submit(name="a half", user="ann", resources=workers(1, gpus_per_worker=0.5))
    assert core.start_all() == ["one", "a half"]


def test_a_quota_counts_from_the_next_claim_on(core: Core) -> None:
    core.set_quota("user:*", jobs=0)
    core.record_cluster(cpus=8)
    core.submit(name="ann's", user="ann")
    assert core.start_all() == []
    core.set_quota("user:ann", jobs=1)
    assert core.start_all() == ["ann's"]


def test_running_jobs_of_a_group_are_limited(core: Core) -> None:
    core.set_quota("group:cs101", jobs=1)
    core.record_cluster(cpus=8)
    for user, group in (("ann", "cs101"), ("ben", "cs101"), ("eve", "cs102"), ("tim", None)):
        core.add_person(user, group=group)
        core.submit(name=f"{user}'s", user=user)
    assert core.start_all() == ["ann's", "eve's", "tim's"]
    with core.database.transaction() as session:
        people.set_group(session, "ben", None)
    assert core.start_all() == ["ben's"]


def test_running_workers_with_a_tag_are_limited(core: Core) -> None:
    core.set_quota("tag:nightly", workers=2)
    core.record_cluster(cpus=8)
    core.submit(name="first", tags=["nightly"], resources=workers(2))
    core.submit(name="second", tags=["nightly"])
    core.submit(name="by day", tags=["x"])
    assert core.start_all() == ["first", "by day"]


@pytest.mark.parametrize("key", ["user:*", "group:cs101", "tag:t"])
def test_what_was_submitted_before_its_quota_of_storage_was_full_begins_when_space_is_free(
    core: Core, key: str
) -> None:
    core.record_cluster(cpus=8)
    core.add_person("ann", group="cs101")
    core.set_quota(key, stored_bytes=50)
    full = core.run(tags=["t"])
    preempted = core.run(tags=["t"])
    core.submit(name="new", tags=["t"])
    core.submit(name="ben's", user="ben")
    core.report(preempted.attempt_id, 2, checkpoints=[note(1)])
    core.end(preempted, Reason.PREEMPTED)
    core.release(preempted)
    core.report(full.attempt_id, 2, checkpoints=[note(20)])
    core.finish(full.attempt_id)
    core.release(full)
    core.clock.advance(60.0)
    assert core.start_all() == [core.job(job_id_of(preempted)).name, "ben's"]
    with core.database.transaction() as session:
        retention.delete_job(session, job_id_of(full))
    assert core.start_all() == ["new"]
