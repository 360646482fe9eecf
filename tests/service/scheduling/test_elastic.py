"""Elastic jobs: they begin with what is free, shrink with the cluster, and grow with it."""

from typing import Any

import pytest

from service.errors import CannotFit
from service.resources import ResourceBundle
from service.scheduling import cluster_state, growth, queue_status
from service.scheduling.estimates import Estimator, TimingProfile
from service.scheduling.growth import Growth
from service.scheduling.queue_status import JobQueueStatus, QueueStatus, WaitReason
from service.states import JobState, Reason, StopReason
from tests.support.core import Core, Taken, job_id_of, make_point, note, spec, workers

STEPS = 100
QUICK = {"name": "quick", "iterations": STEPS}


def elastic(smallest: int = 1, largest: int = 8, **fields: Any) -> dict[str, Any]:
    """Of a batch of 128 images; powers of two share it equally."""
    return {"resources": {"num_workers": {"min": smallest, "max": largest}} | fields}


def count_workers(core: Core, attempt: Taken) -> int:
    return core.attempt(attempt.attempt_id).num_workers


def explain(core: Core, job_id: str) -> JobQueueStatus:
    with core.database.reading() as session:
        queue = QueueStatus(session, data_dir=core.data_dir, now=core.clock.now)
        waiting = queue.explain(core.job(job_id))
    assert waiting is not None
    return waiting


def run_next(core: Core) -> Taken:
    """The next job starts and reports once."""
    taken = core.start_next()
    core.report(taken.attempt_id, 1)
    return taken


@pytest.mark.parametrize("has_quota", [False, True])
def test_an_elastic_job_begins_with_the_most_workers_that_are_free_and_share_its_batch(
    core: Core, has_quota: bool
) -> None:
    if has_quota:  # The policy then decides on each job.
        core.set_quota("user:*", jobs=9)
    core.record_cluster(cpus=12)
    for fields in (elastic(), elastic(), elastic(), {}):
        core.submit(**fields)
    claims = core.claim_jobs()
    assert [core.attempt(claim.attempt_id).num_workers for claim in claims] == [8, 4]
    assert core.events(job_id_of(claims[1]))[-2].data["num_workers"] == 4


def test_workers_are_as_many_as_the_nodes_can_hold(core: Core) -> None:
    nodes = [ResourceBundle(cpus=3, gpus=0)] * 2
    core.record_cluster(cpus=6, nodes=nodes)
    core.submit(**elastic(cpus_per_worker=1))
    core.submit(**elastic(cpus_per_worker=2))
    first = run_next(core)
    assert count_workers(core, first) == 4
    core.finish(first.attempt_id)
    core.release(first)
    assert count_workers(core, run_next(core)) == 2


def test_a_job_whose_node_is_lost_continues_with_fewer_workers(core: Core) -> None:
    core.record_cluster(cpus=4)
    job_id = core.submit(**elastic(), recipe=QUICK)
    lost = run_next(core)
    assert count_workers(core, lost) == 4
    core.report(lost.attempt_id, 2, checkpoints=[note(40)])
    core.record_cluster(cpus=3)
    core.end(lost, Reason.CLUSTER_LOST)
    core.release(lost)
    core.clock.advance(60.0)
    again = run_next(core)
    assert count_workers(core, again) == 2
    assert core.attempt(again.attempt_id).first_iteration == 40
    assert (core.job(job_id).restarts, core.job(job_id).infra_restarts) == (0, 1)


def test_an_elastic_job_waits_for_what_its_last_attempt_still_holds(core: Core) -> None:
    core.record_cluster(cpus=4)
    core.submit(name="other", resources=workers(1, cpus_per_worker=3))
    other = core.start_next()
    job_id = core.submit(name="elastic", **elastic())
    alone = run_next(core)
    core.finish(other.attempt_id)
    core.release(other)
    core.end(alone, Reason.PREEMPTED)
    core.submit(name="later")
    assert core.start_all() == [], "three CPUs are free, and its own worker's soon"
    assert explain(core, job_id).message.startswith("starts once the workers of its last attempt")
    core.release(alone)
    again = core.claim()
    assert job_id_of(again) == job_id
    assert core.attempt(again.attempt_id).num_workers == 4


def test_quotas_count_the_workers_that_run(core: Core) -> None:
    core.set_quota("user:ann", workers=3)
    core.record_cluster(cpus=8)
    core.submit(name="elastic", **elastic())
    core.submit(name="too many", resources=workers(2))
    core.submit(name="one")
    assert core.start_all() == ["elastic", "one"]


def test_an_elastic_job_waits_with_a_reason_where_the_cluster_has_too_few_workers(
    core: Core,
) -> None:
    core.record_cluster(cpus=2)
    with pytest.raises(CannotFit, match="can never run") as caught:
        core.submit(**elastic(4, 8))
    assert caught.value.field_errors[0].message == "4 workers need 4 CPUs; the cluster has 2"
    job_id = core.submit(**elastic(2, 8))
    core.record_cluster(cpus=1)
    assert core.start_all() == []
    waiting = explain(core, job_id)
    assert waiting.code is WaitReason.TOO_LARGE
    assert waiting.message == "needs at least 2 CPUs; the cluster has 1 CPU in total"


def test_durations_are_measured_for_each_number_of_workers_and_the_plan_names_them(
    core: Core,
) -> None:
    core.record_cluster(cpus=2)
    core.submit(**elastic(1, 4), recipe=QUICK)
    taken = run_next(core)
    core.clock.advance(50.0)
    point = make_point(series="train/loss", iteration=STEPS, value=0.5)
    core.report(taken.attempt_id, 2, metrics=[point])
    core.finish(taken.attempt_id)
    core.release(taken)
    planned = spec(**elastic(1, 4), recipe=QUICK)
    assert planned.worker_counts == (1, 2, 4)
    with core.database.reading() as session:
        estimator = Estimator(session)
        measured = {
            count: estimator.estimate_iteration(TimingProfile.from_spec(planned, num_workers=count))
            for count in (1, 2)
        }
        plan = queue_status.plan_job(
            session, planned, user="ann", data_dir=core.data_dir, now=core.clock.now
        )
    assert measured[1] is None
    assert measured[2] is not None
    assert measured[2].p50 == 0.5
    assert plan.num_workers == 2
    assert plan.duration is not None
    assert plan.duration.p50 == 50.0


def test_a_short_elastic_job_is_backfilled_with_all_that_is_free(core: Core) -> None:
    core.record_cluster(cpus=8)
    core.submit(name="measured", recipe=QUICK)
    measured = run_next(core)
    core.clock.advance(10.0)
    point = make_point(series="train/loss", iteration=STEPS, value=0.5)
    core.report(measured.attempt_id, 2, metrics=[point])
    core.finish(measured.attempt_id)
    core.release(measured)
    core.submit(name="runs", resources=workers(4))
    core.start_next()
    core.submit(name="head", resources=workers(8))
    core.submit(name="short", **elastic(), recipe=QUICK)
    (backfilled,) = core.claim_jobs()
    attempt = core.attempt(backfilled.attempt_id)
    assert attempt.num_workers == 4
    assert attempt.backfill_deadline is not None


def run_alone(core: Core, *, cpus: int = 4, iterations: int = 10_000, **fields: Any) -> Taken:
    """A job that has trained 100 iterations in 100 s with one worker; then the cluster grows."""
    core.record_cluster(cpus=1)
    core.submit(**elastic(), recipe=QUICK | {"iterations": iterations}, **fields)
    taken = run_next(core)
    core.clock.advance(100.0)
    core.report(taken.attempt_id, 2, metrics=[make_point("train/loss", 100, 0.5)])
    core.record_cluster(cpus=cpus)
    return taken


def list_growths(core: Core) -> list[Growth]:
    with core.database.reading() as session:
        assert growth.is_any_growable(session)
        return growth.list_growths(
            session, min_seconds=60.0, data_dir=core.data_dir, now=core.clock.now
        )


def resize(core: Core) -> bool:
    """As a dispatcher does; False: not now."""
    with core.database.transaction() as session:
        cluster_state.lock_cluster(session)
        (found,) = list_growths(core) or (None,)
        return found is not None and growth.request_growth(session, found, now=core.clock.now)


def test_a_job_grows_to_all_that_is_free_and_keeps_its_place(core: Core) -> None:
    taken = run_alone(core, cpus=5)
    job_id = job_id_of(taken)
    (found,) = list_growths(core)
    assert (found.num_workers, found.larger) == (1, 4)
    with core.database.transaction() as session:
        assert growth.request_growth(session, found, now=core.clock.now)
    with core.database.transaction() as session:
        is_repeated = growth.request_growth(session, found, now=core.clock.now)
    assert not is_repeated, "another dispatcher has found the same"
    assert core.events(job_id)[-1].data == {
        "stop": "resize",
        "message": "to continue with 4 workers, not 1",
    }
    assert core.report(taken.attempt_id, 3, checkpoints=[note(120)]).stop_reason == "resize"
    core.submit(name="came meanwhile")
    assert core.finish(taken.attempt_id, Reason.RESIZED) is JobState.QUEUED
    assert core.start_all(limit=1) == ["came meanwhile"], "it fits beside the four"
    core.release(taken)
    again = run_next(core)
    assert job_id_of(again) == job_id
    assert count_workers(core, again) == 4
    assert core.attempt(again.attempt_id).first_iteration == 120
    job = core.job(job_id)
    assert (job.preemptions, job.restarts, job.infra_restarts, job.not_before) == (0, 0, 0, None)


def test_a_job_grows_only_where_no_other_could_start(core: Core) -> None:
    core.set_quota("tag:t", jobs=0)
    core.record_cluster(cpus=8)
    cases: list[tuple[dict[str, Any], bool]] = [
        ({"hold": True}, True),
        ({"tags": ["t"]}, True),
        ({"resources": workers(8)}, True),
        ({}, False),
    ]
    held = [core.submit(**fields | {"hold": True}) for fields, _ in cases]
    run_alone(core)
    for job_id, (fields, grows) in zip(held, cases, strict=True):
        if "hold" not in fields:
            core.command("release", job_id)
        assert bool(list_growths(core)) == grows
        core.cancel(job_id)


def test_a_job_grows_within_the_quotas_of_its_owner(core: Core) -> None:
    run_alone(core)
    cases: list[tuple[dict[str, float], list[int]]] = [
        ({"workers": 1}, []),
        ({"workers": 3}, [2]),
        ({"core_hours": 0.001}, []),
        ({"core_hours": 1}, [4]),
    ]
    for quota, larger in cases:
        core.set_quota("user:ann", **quota)
        assert [found.larger for found in list_growths(core)] == larger


@pytest.mark.parametrize(("left", "grows"), [(79, False), (81, True)])
def test_a_job_grows_only_where_it_would_end_a_minute_earlier(
    core: Core, left: int, grows: bool
) -> None:
    run_alone(core, iterations=100 + left)
    assert bool(list_growths(core)) == grows, "four workers save three quarters of the seconds"


def test_a_job_does_not_grow_where_more_workers_were_measured_to_be_slower(core: Core) -> None:
    core.record_cluster(cpus=4)
    for count, seconds in ((1, 100.0), (2, 150.0), (4, 120.0)):
        core.submit(resources=workers(count), recipe=QUICK)
        measured = run_next(core)
        core.clock.advance(seconds)
        core.report(measured.attempt_id, 2, metrics=[make_point("train/loss", STEPS, 0.5)])
        core.finish(measured.attempt_id)
        core.release(measured)
    run_alone(core)
    assert not list_growths(core)


def test_a_cancelled_or_more_urgent_request_replaces_that_of_a_growth(core: Core) -> None:
    taken = run_alone(core, preemptible=True, priority=10)
    job_id = job_id_of(taken)
    assert resize(core)
    core.submit(name="urgent", priority=90, resources=workers(4))
    assert core.try_claim() is None
    assert core.job(job_id).stop_requested is StopReason.PREEMPT
    core.command("pause", job_id)
    assert core.job(job_id).stop_requested is StopReason.PAUSE
    core.cancel(job_id)
    assert core.finish(taken.attempt_id, Reason.RESIZED) is JobState.CANCELLED


def test_a_job_that_completes_or_fails_before_it_grows_is_not_asked_again(core: Core) -> None:
    taken = run_alone(core)
    assert resize(core)
    assert not list_growths(core)
    assert core.end(taken, Reason.WORKER_DIED)
    assert core.job(job_id_of(taken)).stop_requested is None
    assert core.job(job_id_of(taken)).not_before is not None
