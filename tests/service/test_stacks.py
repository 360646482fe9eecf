"""Stacks: jobs of one kind in one process, on what one of them occupies."""

from typing import Any

import pytest

from service import queue, stacks
from service.errors import InvalidInput
from service.pools import Pool, Shape
from service.settings import Limit
from service.spec import parse
from service.states import JobState, Reason, RunnerState
from tests.support.core import Core, Taken, job_id_of, spec, workers

STACKED = workers(1, stack=3)


def start(core: Core, **fields: Any) -> Taken:
    """The first of a stack, whose runner is up and trains it."""
    core.submit(**{"resources": STACKED} | fields)
    first = core.start_next()
    core.report(first.attempt_id, 1)
    return first


def join(core: Core, first: Taken, *others: Taken, **fields: Any) -> Taken:
    """One more, which the runner of `first` is handed beside the others."""
    core.submit(**{"resources": STACKED} | fields)
    claimed = core.claim()
    assert claimed.runner_id == first.runner_id
    running = [one.attempt_id for one in (first, *others)]
    orders = core.ask(first.runner_id, running=running)
    assert orders is not None
    assert orders.order is not None
    assert orders.order.brief.attempt_id == claimed.attempt_id
    core.report(claimed.attempt_id, 1)
    return Taken(
        attempt_id=claimed.attempt_id,
        fence=claimed.fence,
        runner_id=claimed.runner_id,
        secret=orders.order.token,
    )


def reserved(core: Core) -> Pool:
    with core.database.reading() as session:
        return queue.reserved(session)


def test_jobs_of_a_stack_occupy_what_one_of_them_does(core: Core) -> None:
    core.offer(cpus=1)
    first = start(core)
    second = join(core, first, seed=1)
    join(core, first, second, seed=2)
    assert reserved(core) == Pool(cpus=1, gpus=0)
    core.submit(resources=STACKED, seed=3)
    assert core.try_claim() is None  # three are a stack


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": 7, "priority": 70, "tags": ["other"], "name": "other"},
        {"recipe": {"name": "quick", "learning_rate": 0.3, "iterations": 50, "weight_decay": 0.0}},
    ],
)
def test_what_changes_no_shape_may_differ_in_a_stack(core: Core, fields: dict[str, Any]) -> None:
    core.offer(cpus=1)
    first = start(core, recipe="quick")
    core.submit(**{"resources": STACKED, "recipe": "quick"} | fields)
    assert core.claim().runner_id == first.runner_id


@pytest.mark.parametrize(
    "fields",
    [
        {"depth": 14},
        {"shortcut": "none"},
        {"recipe": {"name": "quick", "batch_size": 64}},
        {"recipe": {"name": "quick", "precision": "fp32"}},
        {"resources": workers(1, stack=4)},
        {"resources": workers(1)},
        {"user": "bob"},
    ],
)
def test_other_kinds_and_other_people_do_not_join(core: Core, fields: dict[str, Any]) -> None:
    core.offer(cpus=1)
    start(core, recipe="quick")
    core.submit(**{"resources": STACKED, "recipe": "quick"} | fields)
    assert core.try_claim() is None


def test_nobody_joins_past_a_job_that_waits_for_the_room(core: Core) -> None:
    core.offer(cpus=1)
    start(core)
    core.submit(seed=1)
    core.submit(resources=STACKED, seed=2)
    assert core.try_claim() is None


def test_no_standby_is_kept_for_who_joins(core: Core) -> None:
    core.offer(cpus=2)
    first = start(core)
    join(core, first, seed=1)
    there = core.keep_standbys(wanted=1)
    assert [shape for _, shape in there] == [Shape(1, 1, 0)] * 2


def test_limits_hold_for_who_joins(core: Core) -> None:
    core.offer(cpus=1)
    start(core)
    core.limits = {"user:*": Limit(jobs=1)}
    core.submit(resources=STACKED, seed=1)
    assert core.try_claim() is None


def test_what_is_tried_again_trains_alone(core: Core) -> None:
    core.offer(cpus=2)
    first = start(core)
    second = join(core, first, seed=1)
    core.end(second, Reason.WORKER_DIED)
    core.clock.advance(60.0)
    assert core.claim().runner_id != first.runner_id
    assert reserved(core) == Pool(cpus=2, gpus=0)


def test_the_room_passes_on_to_those_that_are_left(core: Core) -> None:
    core.offer(cpus=1)
    first = start(core)
    second = join(core, first, seed=1)
    core.finish(first.attempt_id)
    assert core.ask(first.runner_id, running=[first.attempt_id, second.attempt_id]) is None
    assert reserved(core) == Pool(cpus=1, gpus=0)
    assert core.runner(first.runner_id).attempt_id == second.attempt_id
    core.finish(second.attempt_id)
    answer = core.ask(first.runner_id, running=[first.attempt_id, second.attempt_id])
    assert answer is not None  # all of them have ended
    assert answer.order is None
    assert reserved(core) == Pool(cpus=0, gpus=0)
    assert core.runner(first.runner_id).attempt_id is None


def test_who_came_too_late_for_its_stack_begins_one(core: Core) -> None:
    core.offer(cpus=1)
    first = start(core)
    late = join(core, first, seed=1)
    core.finish(first.attempt_id)
    orders = core.ask(first.runner_id, trained=first.attempt_id)
    assert orders is not None
    assert orders.order is not None
    assert orders.order.brief.attempt_id == late.attempt_id
    assert orders.order.brief.cpus_per_worker == 1
    assert orders.order.token != late.secret


def test_a_runner_that_dies_leaves_all_of_them_to_be_ended(core: Core) -> None:
    core.offer(cpus=1)
    first = start(core)
    second = join(core, first, seed=1)
    for _ in range(2):
        orders = core.ask(first.runner_id, is_leaving=True)
        assert orders is not None
        assert orders.order is not None
        core.finish(orders.order.brief.attempt_id, Reason.WORKER_DIED)
    answer = core.ask(first.runner_id, is_leaving=True)
    assert answer is not None
    assert answer.order is None
    for one in (first, second):
        assert core.job(job_id_of(one.attempt_id)).state is JobState.QUEUED
    assert core.runner(first.runner_id).state is RunnerState.LEAVING
    assert reserved(core) == Pool(cpus=0, gpus=0)


def test_a_stack_makes_way_as_a_whole(core: Core) -> None:
    core.offer(cpus=1)
    first = start(core, preemptible=True, priority=10)
    second = join(core, first, seed=1, preemptible=True, priority=10)
    core.submit(priority=90)
    assert core.try_claim() is None
    for one in (first, second):
        assert core.job(job_id_of(one.attempt_id)).stop_requested == "preempt"


def test_cancelling_one_leaves_the_others(core: Core) -> None:
    core.offer(cpus=1)
    first = start(core)
    second = join(core, first, seed=1)
    core.cancel(job_id_of(first.attempt_id))
    assert core.report(first.attempt_id, 2).stop == "cancel"
    assert core.report(second.attempt_id, 2).stop is None
    with core.database.reading() as session:
        together = stacks.together_with(session, job_id_of(second.attempt_id))
    assert sorted(together) == sorted(job_id_of(one.attempt_id) for one in (first, second))


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"resources": workers(2, stack=2)}, "num_workers is 1"),
        ({"resources": STACKED, "family": "vgg", "depth": 16, "shortcut": "none"}, "vgg"),
        (
            {"resources": STACKED, "dataset": "folder:x", "depth": 18, "recipe": "paper-imagenet"},
            "small",
        ),
        ({"resources": STACKED, "start_from": {"job": "0" * 16}}, "begin at the beginning"),
        ({"resources": workers(1, stack=65)}, "64"),
    ],
)
def test_what_cannot_be_stacked_is_refused(fields: dict[str, Any], fault: str) -> None:
    whole = {"dataset": "digits", "depth": 8, "shortcut": "A"} | fields
    with pytest.raises(InvalidInput) as refused:
        parse(whole)
    assert any(fault in one.message for one in refused.value.faults)


def test_a_job_that_trains_alone_has_no_key() -> None:
    assert stacks.key_of(spec(), user="ann") is None
