"""What monitoring reads: why jobs wait, whose they are, and at what cost."""

from collections import Counter
from datetime import timedelta

import pytest

from service.scheduling import dispatchers, monitoring, queue_status, snapshot
from service.scheduling.monitoring import ServiceState
from service.scheduling.queue_status import QueueStatus, WaitReason
from service.states import RayJobState, Reason
from tests.support.core import Core, workers


def read(core: Core) -> ServiceState:
    with core.database.reading() as session:
        return monitoring.read_state(session, data_dir=core.data_dir, now=core.clock.now)


def _explain_each(core: Core) -> Counter[WaitReason]:
    """The reasons that users see."""
    with core.database.reading() as session:
        queue = QueueStatus(session, data_dir=core.data_dir, now=core.clock.now)
        found = [queue.explain(job) for job in queue_status.list_waiting_jobs(session, limit=500)]
    return Counter(status.code for status in found if status is not None)


def test_jobs_are_counted_by_the_reasons_that_users_see(core: Core) -> None:
    core.record_cluster(cpus=8)
    core.submit(resources=workers(1, cpus_per_worker=8), name="too large")
    core.command("hold", core.submit(name="held"))
    core.command("pause", core.submit(name="paused"))
    core.submit(after=[core.submit(name="blocking", priority=90)], name="blocked")
    core.record_cluster(cpus=4)
    blocking = core.start_next()
    core.submit(resources=workers(1, cpus_per_worker=3), name="large", priority=80)
    core.start_next()
    core.submit(resources=workers(4), name="head", priority=70)
    core.set_quota("user:bob", jobs=0)
    core.submit(user="bob", name="limited")
    for _ in range(3):
        core.submit(name="behind")
    core.end(blocking, Reason.WORKER_DIED)
    core.release(blocking)
    expected = _explain_each(core)
    assert expected.keys() == set(WaitReason) - {
        WaitReason.PARKED,
        WaitReason.NEXT,
        WaitReason.NO_DISPATCHER,
    }
    assert +read(core).queue.reasons == expected
    core.clock.advance(3600.0)
    assert +read(core).queue.reasons == _explain_each(core)
    assert read(core).queue.reasons[WaitReason.NO_DISPATCHER] > 1


def test_the_job_that_starts_next_is_counted_as_such(core: Core) -> None:
    core.record_cluster(cpus=4)
    core.submit()
    core.submit(resources=workers(4), name="behind")
    assert +read(core).queue.reasons == _explain_each(core)
    assert read(core).queue.reasons[WaitReason.NEXT] == 1


def test_jobs_that_the_policy_does_not_look_at_are_behind(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "MAX_WAITING_JOBS", 1)
    core.record_cluster(cpus=1)
    core.start_small(cpus=1)
    for _ in range(3):
        core.submit()
    expected = {WaitReason.RESOURCES: 1, WaitReason.BEHIND: 2}
    assert +read(core).queue.reasons == expected == _explain_each(core)


def test_the_oldest_wait_is_of_a_job_that_may_start_and_never_ran(core: Core) -> None:
    assert read(core).queue.oldest_at is None
    core.record_cluster(cpus=4)
    core.command("hold", core.submit())
    core.run()
    submitted = core.submit()
    core.submit()
    assert read(core).queue.oldest_at == core.job(submitted).created_at


def test_only_the_largest_groups_have_a_number_of_their_own(core: Core) -> None:
    names = [f"group-{number:02}" for number in range(monitoring.MAX_GROUPS + 5)]
    for number, name in enumerate(names):
        core.add_person(f"user-{number}", group=name)
        for _ in range(2 if number else 1):
            core.submit(user=f"user-{number}")
    core.submit(user="a person without a group")
    waiting = read(core).queue.waiting
    assert len(waiting) == monitoring.MAX_GROUPS + 1
    assert waiting.total() == 2 * len(names)
    assert monitoring.NO_GROUP not in waiting, "it has one job, the others two"
    assert waiting[monitoring.OTHER_GROUPS] == 2 * 5


def test_runners_are_idle_until_they_have_an_attempt(core: Core) -> None:
    core.record_cluster(cpus=4)
    runner = core.start_warm_runner()
    assert read(core).runners == {RayJobState.STARTING: 1}
    core.ask(runner.id)
    assert read(core).idle_runners == 1
    core.submit()
    core.start_next()
    state = read(core)
    assert (state.runners, state.idle_runners) == ({RayJobState.READY: 1}, 0)
    assert state.reserved.cpus == 1


def test_a_dispatcher_runs_until_a_minute_after_its_last_heartbeat(core: Core) -> None:
    begin = core.clock.now

    def record(owner: str) -> None:
        with core.database.transaction() as session:
            now = core.clock.now
            dispatchers.record_heartbeat(session, owner, round_at=now, now=now)

    assert read(core).dispatchers.running == 0
    record("one")
    core.clock.advance(9.0)
    record("one")
    record("two")
    found = read(core).dispatchers
    assert (found.running, found.seen_at) == (2, begin + timedelta(seconds=9))
    core.clock.advance(52.0)
    found = read(core).dispatchers
    assert (found.running, found.round_at) == (1, begin + timedelta(seconds=9))
    core.clock.advance(2 * 86_400.0)
    record("three")
    with core.database.transaction() as session:
        dispatchers.remove(session, "three")
    assert read(core).dispatchers.seen_at is None
