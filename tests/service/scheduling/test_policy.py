"""Decisions without a database: order, gangs, backfill, preemption, limits, forecasts."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.resources import ResourceBundle
from service.scheduling import policy
from service.scheduling.policy import (
    DurationEstimate,
    PreemptJobs,
    RunningJob,
    SchedulerSnapshot,
    StartJob,
    WaitingJob,
)
from service.settings import ConcurrencyLimit


def _exactly(seconds: float) -> DurationEstimate:
    return DurationEstimate(p50=seconds, p90=seconds)


def waits(name: str, cpus: int, *, duration: float | None = None, **fields: Any) -> WaitingJob:
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


def runs(name: str, cpus: int, *, remaining: float = 60.0, **fields: Any) -> RunningJob:
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


def snapshot(
    cpus: int,
    running: Sequence[RunningJob],
    waiting: Sequence[WaitingJob],
    limits: dict[str, ConcurrencyLimit] | None = None,
) -> SchedulerSnapshot:
    capacity = ResourceBundle(cpus=cpus, gpus=0)
    return SchedulerSnapshot(
        capacity=capacity, running=running, waiting=waiting, limits=limits or {}
    )


def test_the_first_job_starts_where_it_fits() -> None:
    assert policy.decide(snapshot(4, [], [waits("a", 4), waits("b", 1)])) == StartJob("a")


def test_a_job_starts_with_all_its_workers_or_waits() -> None:
    assert policy.decide(snapshot(4, [runs("x", 1)], [waits("a", 4)])) is None


def test_a_short_job_fills_the_gap_before_the_heads_reservation() -> None:
    waiting = [waits("head", 4), waits("short", 1, duration=59.0)]
    decided = policy.decide(snapshot(4, [runs("x", 3, remaining=60.0)], waiting))
    assert decided == StartJob("short", backfill_seconds=60.0)


@pytest.mark.parametrize("lasts", [61.0, None])
def test_a_job_that_may_touch_the_reservation_waits(lasts: float | None) -> None:
    waiting = [waits("head", 4), waits("long or unknown", 1, duration=lasts)]
    assert policy.decide(snapshot(4, [runs("x", 3, remaining=60.0)], waiting)) is None


def test_a_job_beside_the_reservation_starts_however_long_it_takes() -> None:
    waiting = [waits("head", 3), waits("beside", 1)]
    assert policy.decide(snapshot(4, [runs("x", 3)], waiting)) == StartJob("beside")


def test_what_runs_and_ends_later_than_the_reservation_takes_no_part_in_it() -> None:
    running = [runs("soon", 2, remaining=10.0), runs("late", 1, remaining=900.0)]
    waiting = [waits("head", 3), waits("short", 1, duration=5.0), waits("other", 1, duration=11.0)]
    assert policy.decide(snapshot(4, running, waiting)) == StartJob("short", backfill_seconds=10.0)


def test_a_job_that_the_cluster_cannot_hold_is_no_head() -> None:
    assert policy.decide(snapshot(4, [], [waits("too large", 5), waits("a", 1)])) == StartJob("a")


def test_the_least_urgent_preemptible_job_makes_way() -> None:
    running = [
        runs("mine", 2, priority=10, sort_key=9.0, is_preemptible=True),
        runs("less", 2, priority=5, sort_key=12.0, is_preemptible=True),
        runs("firm", 2, priority=1, sort_key=15.0),
    ]
    decided = policy.decide(snapshot(6, running, [waits("urgent", 2, priority=90)]))
    assert decided == PreemptJobs("urgent", victims=("less",))


def test_only_as_many_make_way_as_are_needed() -> None:
    running = [
        runs("small", 1, priority=1, sort_key=12.0, is_preemptible=True),
        runs("large", 4, priority=2, sort_key=9.0, is_preemptible=True),
    ]
    decided = policy.decide(snapshot(5, running, [waits("urgent", 4, priority=90)]))
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
def test_nothing_is_preempted_in_vain(fields: dict[str, Any]) -> None:
    assert policy.decide(snapshot(1, [runs("x", 1, **fields)], [waits("head", 1)])) is None


def test_nobody_else_is_asked_while_those_who_were_are_stopping() -> None:
    fields: dict[str, Any] = {"priority": 1, "sort_key": 9.0, "is_preemptible": True}
    running = [runs("asked", 2, is_stopping=True, **fields), runs("not asked", 2, **fields)]
    assert policy.decide(snapshot(4, running, [waits("urgent", 2, priority=90)])) is None


def test_a_job_that_overstays_in_its_gap_makes_way() -> None:
    running = [runs("short", 1, sort_key=9.0, is_overdue_backfill=True)]
    decided = policy.decide(snapshot(4, running, [waits("head", 4)]))
    assert decided == PreemptJobs("head", victims=("short",))


@pytest.mark.parametrize(
    "limits",
    [
        {"user:ann": ConcurrencyLimit(jobs=1)},
        {"user:*": ConcurrencyLimit(workers=2)},
        {"tag:t": ConcurrencyLimit(jobs=1)},
        {"tag:*": ConcurrencyLimit(workers=2)},
    ],
)
def test_a_job_over_a_limit_waits_and_lets_others_pass(limits: dict[str, ConcurrencyLimit]) -> None:
    running = [runs("x", 1, tags=("t",))]
    waiting = [waits("ann's", 2, tags=("t",)), waits("ben's", 1, user="ben")]
    assert policy.decide(snapshot(8, running, waiting, limits)) == StartJob("ben's")


def test_an_own_limit_stands_before_that_of_everybody() -> None:
    limits = {"user:*": ConcurrencyLimit(jobs=0), "user:ann": ConcurrencyLimit(jobs=1)}
    assert policy.decide(snapshot(1, [], [waits("a", 1)], limits)) == StartJob("a")


def test_a_forecast_starts_all_in_their_order() -> None:
    running = [runs("x", 2, remaining=10.0), runs("y", 2, remaining=30.0)]
    waiting = [waits("a", 2, duration=5.0), waits("b", 4, duration=7.0), waits("c", 1)]
    found = policy.forecast_starts(snapshot(4, running, waiting))
    assert found == {"a": _exactly(10.0), "b": _exactly(30.0), "c": _exactly(37.0)}


def test_no_forecast_is_made_behind_what_nobody_knows() -> None:
    found = policy.forecast_starts(
        snapshot(1, [], [waits("unknown", 1), waits("next", 1, duration=1.0)])
    )
    assert found == {"unknown": _exactly(0.0), "next": None}


_jobs = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 20)), min_size=2, max_size=12)


@given(jobs=_jobs)
def test_a_reservation_is_kept_whatever_is_filled_in(jobs: list[tuple[int, int]]) -> None:
    """All jobs at once, on four CPUs, taking as long as expected: no head starts later than it
    was promised when it became the head.
    """
    waiting = [waits(f"{at:02}", cpus, duration=lasts) for at, (cpus, lasts) in enumerate(jobs)]
    running: list[tuple[float, WaitingJob]] = []
    promised: dict[str, float] = {}
    now = 0.0
    while waiting:
        seen = snapshot(
            4,
            [runs(job.job_id, job.resources.cpus, remaining=end - now) for end, job in running],
            waiting,
        )
        decided = policy.decide(seen)
        if isinstance(decided, StartJob):
            job = next(job for job in waiting if job.job_id == decided.job_id)
            waiting.remove(job)
            assert now <= promised.get(job.job_id, now)
            assert job.duration is not None
            running = sorted([*running, (now + job.duration.p50, job)], key=lambda one: one[0])
            continue
        head = waiting[0]
        reservation = policy.make_reservation(head, seen.running, seen.free)
        promised.setdefault(head.job_id, now + reservation.starts_in)
        (now, _), *running = running
