"""Decisions without a database: order, gangs, backfill, preemption, limits, forecasts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.resources import ResourceBundle, ResourceHours
from service.scheduling import policy
from service.scheduling.policy import (
    DurationEstimate,
    PreemptJobs,
    RunningJob,
    SchedulerSnapshot,
    StartJob,
    WaitingJob,
    WorkerOption,
)
from service.specs.fair_share import decay
from service.specs.quota import Quota


def _exactly(seconds: float) -> DurationEstimate:
    return DurationEstimate(p50=seconds, p90=seconds)


def make_waiting(
    name: str, cpus: int, *, duration: float | None = None, **fields: Any
) -> WaitingJob:
    described: dict[str, Any] = {
        "job_id": name,
        "sort_key": 0.0,
        "priority": 50,
        "resources": ResourceBundle(cpus=cpus, gpus=0),
        "num_workers": cpus,
        "user": "ann",
        "duration": None if duration is None else _exactly(duration),
    } | fields
    return WaitingJob(**described)


def make_running(name: str, cpus: int, *, remaining: float = 60.0, **fields: Any) -> RunningJob:
    described: dict[str, Any] = {
        "job_id": name,
        "sort_key": 0.0,
        "priority": 50,
        "resources": ResourceBundle(cpus=cpus, gpus=0),
        "num_workers": cpus,
        "user": "ann",
        "remaining": _exactly(remaining),
    } | fields
    return RunningJob(**described)


def make_snapshot(
    cpus: int,
    running: Sequence[RunningJob],
    waiting: Sequence[WaitingJob],
    quotas: dict[str, Quota] | None = None,
) -> SchedulerSnapshot:
    capacity = ResourceBundle(cpus=cpus, gpus=0)
    return SchedulerSnapshot(
        capacity=capacity, running=running, waiting=waiting, quotas=quotas or {}
    )


def test_the_first_job_starts_where_it_fits() -> None:
    assert policy.decide(
        make_snapshot(4, [], [make_waiting("a", 4), make_waiting("b", 1)])
    ) == StartJob("a")


def test_a_job_starts_with_all_its_workers_or_waits() -> None:
    assert policy.decide(make_snapshot(4, [make_running("x", 1)], [make_waiting("a", 4)])) is None


def test_a_short_job_is_backfilled_before_the_reservation_of_the_head() -> None:
    waiting = [make_waiting("head", 4), make_waiting("short", 1, duration=59.0)]
    decided = policy.decide(make_snapshot(4, [make_running("x", 3, remaining=60.0)], waiting))
    assert decided == StartJob("short", backfill_seconds=60.0)


@pytest.mark.parametrize("lasts", [61.0, None])
def test_a_job_that_may_delay_the_head_waits(lasts: float | None) -> None:
    waiting = [make_waiting("head", 4), make_waiting("long or unknown", 1, duration=lasts)]
    assert policy.decide(make_snapshot(4, [make_running("x", 3, remaining=60.0)], waiting)) is None


def test_a_job_that_fits_beside_the_reservation_starts_whatever_its_duration() -> None:
    waiting = [make_waiting("head", 3), make_waiting("beside", 1)]
    assert policy.decide(make_snapshot(4, [make_running("x", 3)], waiting)) == StartJob("beside")


def test_jobs_that_end_after_the_reservation_do_not_count_for_it() -> None:
    running = [make_running("soon", 2, remaining=10.0), make_running("late", 1, remaining=900.0)]
    waiting = [
        make_waiting("head", 3),
        make_waiting("short", 1, duration=5.0),
        make_waiting("other", 1, duration=11.0),
    ]
    assert policy.decide(make_snapshot(4, running, waiting)) == StartJob(
        "short", backfill_seconds=10.0
    )


def test_a_job_larger_than_the_cluster_is_not_the_head() -> None:
    assert policy.decide(
        make_snapshot(4, [], [make_waiting("too large", 5), make_waiting("a", 1)])
    ) == StartJob("a")


def test_the_least_urgent_preemptible_job_is_preempted() -> None:
    running = [
        make_running("mine", 2, priority=10, sort_key=9.0, is_preemptible=True),
        make_running("less", 2, priority=5, sort_key=12.0, is_preemptible=True),
        make_running("firm", 2, priority=1, sort_key=15.0),
    ]
    decided = policy.decide(make_snapshot(6, running, [make_waiting("urgent", 2, priority=90)]))
    assert decided == PreemptJobs("urgent", victims=("less",))


def test_no_more_jobs_are_preempted_than_needed() -> None:
    running = [
        make_running("small", 1, priority=1, sort_key=12.0, is_preemptible=True),
        make_running("large", 4, priority=2, sort_key=9.0, is_preemptible=True),
    ]
    decided = policy.decide(make_snapshot(5, running, [make_waiting("urgent", 4, priority=90)]))
    assert decided == PreemptJobs("urgent", victims=("large",))


@pytest.mark.parametrize(
    "fields",
    [
        {"is_preemptible": False, "priority": 1, "sort_key": 9.0},
        {"is_preemptible": True, "priority": 50, "sort_key": 9.0},
        # It has aged past the head: back in the queue it would be first again.
        {"is_preemptible": True, "priority": 1, "sort_key": -9.0},
    ],
)
def test_no_job_is_preempted_in_vain(fields: dict[str, Any]) -> None:
    assert (
        policy.decide(make_snapshot(1, [make_running("x", 1, **fields)], [make_waiting("head", 1)]))
        is None
    )


def test_no_other_job_is_preempted_while_victims_are_stopping() -> None:
    fields: dict[str, Any] = {"priority": 1, "sort_key": 9.0, "is_preemptible": True}
    running = [
        make_running("asked", 2, is_stopping=True, **fields),
        make_running("not asked", 2, **fields),
    ]
    assert (
        policy.decide(make_snapshot(4, running, [make_waiting("urgent", 2, priority=90)])) is None
    )


def test_an_overdue_backfilled_job_is_preempted() -> None:
    running = [make_running("short", 1, sort_key=9.0, is_overdue_backfill=True)]
    decided = policy.decide(make_snapshot(4, running, [make_waiting("head", 4)]))
    assert decided == PreemptJobs("head", victims=("short",))


@pytest.mark.parametrize(
    "quotas",
    [
        {"user:ann": Quota(jobs=1)},
        {"user:*": Quota(workers=2)},
        {"tag:t": Quota(jobs=1)},
        {"group:g": Quota(jobs=1)},
        {"group:*": Quota(workers=2)},
        {"tag:*": Quota(workers=2)},
    ],
)
def test_a_job_over_a_limit_waits_and_does_not_block_others(
    quotas: dict[str, Quota],
) -> None:
    running = [make_running("x", 1, group="g", tags=("t",))]
    waiting = [
        make_waiting("ann's", 2, group="g", tags=("t",)),
        make_waiting("ben's", 1, user="ben"),
    ]
    assert policy.decide(make_snapshot(8, running, waiting, quotas)) == StartJob("ben's")


@pytest.mark.parametrize("key", ["user:ann", "group:g", "tag:t"])
def test_nothing_new_begins_above_a_quota_of_storage_and_what_has_a_checkpoint_does(
    key: str,
) -> None:
    quotas = {key.partition(":")[0] + ":*": Quota(stored_bytes=100)}
    ann: Any = {"group": "g", "tags": ("t",)}
    waiting = [make_waiting("new", 1, **ann), make_waiting("other", 1, user="ben")]
    found = make_snapshot(8, [], waiting, quotas)
    assert policy.decide(replace(found, stored={key: 99})) == StartJob("new")
    found = replace(found, stored={key: 100})
    assert policy.decide(found) == StartJob("other")
    resuming = replace(waiting[0], has_checkpoint=True)
    assert policy.decide(replace(found, waiting=[resuming])) == StartJob("new")


def test_all_gpus_count_as_much_as_all_cpus_of_the_cluster() -> None:
    used = {
        "user:ann": ResourceHours(core_hours=16),
        "user:ben": ResourceHours(core_hours=24, gpu_hours=1),
    }
    found = policy.compute_fair_share(used, {}, ResourceBundle(cpus=64, gpus=8), weight=100)
    assert found.relative == {"user:ann": 0.5, "user:ben": 1.0}
    assert found.points == {"ann": 50.0, "ben": 100.0}


@pytest.mark.parametrize(
    ("groups", "points"),
    [
        ({}, {"ann": 100, "ben": 50}),
        ({"ann": "g", "ben": "h"}, {"ann": 100, "ben": 50}),
        ({"ann": "g"}, {"ann": 100, "ben": 50}),
        ({"ann": "g", "eve": "g"}, {"ann": 100, "ben": 50, "eve": 50}),
    ],
)
def test_the_heaviest_user_loses_the_weight_and_others_in_proportion(
    groups: dict[str, str], points: dict[str, float]
) -> None:
    """Half of it for the person, half for the group; without one, a person is a group."""
    hours = {"user:ann": 6.0, "user:ben": 3.0, "group:g": 6.0, "group:h": 3.0}
    used = {key: ResourceHours(core_hours=amount) for key, amount in hours.items()}
    capacity = ResourceBundle(cpus=8, gpus=0)
    for decayed in (used, {key: decay(value, 1e6, 7.0) for key, value in used.items()}):
        found = policy.compute_fair_share(decayed, groups, capacity, weight=100)
        assert found.points == pytest.approx(points)
    unused = dict.fromkeys(used, ResourceHours())
    assert policy.compute_fair_share(unused, groups, capacity, weight=100).points == {}


def test_a_specific_limit_overrides_the_wildcard() -> None:
    quotas = {"user:*": Quota(jobs=0), "user:ann": Quota(jobs=1)}
    assert policy.decide(make_snapshot(1, [], [make_waiting("a", 1)], quotas)) == StartJob("a")


def test_a_forecast_starts_all_jobs_in_order() -> None:
    running = [make_running("x", 2, remaining=10.0), make_running("y", 2, remaining=30.0)]
    waiting = [
        make_waiting("a", 2, duration=5.0),
        make_waiting("b", 4, duration=7.0),
        make_waiting("c", 1),
    ]
    found = policy.forecast_starts(make_snapshot(4, running, waiting))
    assert found == {"a": _exactly(10.0), "b": _exactly(30.0), "c": _exactly(37.0)}


def test_there_is_no_forecast_behind_a_job_of_unknown_duration() -> None:
    found = policy.forecast_starts(
        make_snapshot(1, [], [make_waiting("unknown", 1), make_waiting("next", 1, duration=1.0)])
    )
    assert found == {"unknown": _exactly(0.0), "next": None}


def make_elastic(name: str, fewest: int, most: int, *, duration: float) -> WaitingJob:
    options = [
        WorkerOption(count, ResourceBundle(cpus=count, gpus=0))
        for count in range(fewest + 1, most + 1)
    ]
    elastic = {"is_elastic": most > fewest, "larger": tuple(options)}
    return make_waiting(name, fewest, duration=duration, **elastic)


_jobs = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 20)), min_size=2, max_size=12
)


@given(jobs=_jobs)
def test_backfill_never_delays_a_reservation(jobs: list[tuple[int, int, int]]) -> None:
    """All jobs wait on four CPUs and take as long as expected: no head starts later than it
    was promised when it became the head. Elastic jobs take as long with more workers.
    """
    waiting = [
        make_elastic(f"{at:02}", min(bounds), max(bounds), duration=lasts)
        for at, (*bounds, lasts) in enumerate(jobs)
    ]
    running: list[tuple[float, WaitingJob]] = []
    promised: dict[str, float] = {}
    now = 0.0
    while waiting:
        snapshot = make_snapshot(
            4,
            [
                make_running(job.job_id, job.resources.cpus, remaining=end - now)
                for end, job in running
            ],
            waiting,
        )
        decided = policy.decide(snapshot)
        if isinstance(decided, StartJob):
            job = next(job for job in waiting if job.job_id == decided.job_id)
            waiting.remove(job)
            assert now <= promised.get(job.job_id, now)
            if decided.num_workers is not None:
                resources = ResourceBundle(cpus=decided.num_workers, gpus=0)
                job = replace(job, num_workers=decided.num_workers, resources=resources)
            assert snapshot.free.contains(job.resources)
            assert job.duration is not None
            running = sorted([*running, (now + job.duration.p50, job)], key=lambda item: item[0])
            continue
        head = waiting[0]
        reservation = policy.make_reservation(head, snapshot.running, snapshot.free)
        promised.setdefault(head.job_id, now + reservation.starts_in)
        (now, _), *running = running
