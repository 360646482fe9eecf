"""Runners: who gets which attempt, who gives way, and when resources are free again."""

from datetime import timedelta

import pytest

from service.errors import Unauthorized
from service.execution import credentials, runners
from service.execution.credentials import CallerKind
from service.execution.ray_job_lifecycle import RayJobSubmission
from service.resources import ResourceBundle, WorkerGroup
from service.scheduling import admission, leases
from service.states import JobState, RayJobState, Reason
from service.storage.tables import RunnerRow
from tests.support.core import LIVES, Core, Taken, job_id_of, workers

ONE, TWO = WorkerGroup(1, 1, 0), WorkerGroup(2, 1, 0)


def _standby(core: Core, worker_group: WorkerGroup = ONE, *, max_attempts: int = LIVES) -> str:
    """A runner that is up and waits."""
    with core.database.transaction() as session:
        runner_id = runners.plan_runner(
            session, worker_group, max_attempts=max_attempts, now=core.clock.now
        ).id
    core.clock.advance(1.0)
    core.start_runners()
    assert core.ask(runner_id) is None
    return runner_id


def _claim(core: Core) -> leases.Claim:
    with core.database.transaction() as session:
        claimed = admission.claim_next_job(
            session,
            owner="one",
            now=core.clock.now,
            lease_seconds=15.0,
            limits={},
            attempts_per_runner=LIVES,
        )
    assert claimed is not None
    return claimed


def _dismiss(core: Core, runner_id: str) -> None:
    with core.database.transaction() as session:
        runners.drain_runner(session, runner_id, now=core.clock.now)


def _gone(core: Core, runner_id: str) -> bool:
    with core.database.transaction() as session:
        return runners.mark_terminated(session, runner_id, now=core.clock.now)


def test_a_standby_of_the_same_shape_gets_the_attempt(core: Core) -> None:
    core.offer(cpus=4)
    other, same = _standby(core, TWO), _standby(core, ONE)
    core.submit()
    claimed = _claim(core)
    assert claimed.runner_id == same
    assert core.runner(other).attempt_id is None
    orders = core.ask(same)
    assert orders is not None
    assert orders.order is not None
    assert orders.order.brief.attempt_id == claimed.attempt_id


def test_a_runner_that_is_up_goes_before_one_that_is_starting(core: Core) -> None:
    core.offer(cpus=4)
    with core.database.transaction() as session:
        runners.plan_runner(session, ONE, max_attempts=LIVES, now=core.clock.now)
    core.clock.advance(1.0)
    core.start_runners()
    ready = _standby(core)
    core.submit()
    assert _claim(core).runner_id == ready


def test_without_a_standby_a_runner_is_planned_and_started(core: Core) -> None:
    core.offer(cpus=4)
    core.submit(resources=workers(2))
    claimed = _claim(core)
    assert core.runner(claimed.runner_id).state is RayJobState.PLANNED
    assert core.attempt(claimed.attempt_id).submitted_at is None
    (start,) = core.start_runners()
    assert (start.id, runners.worker_group_of(start.row)) == (claimed.runner_id, TWO)
    assert core.attempt(claimed.attempt_id).submitted_at == core.clock.now


def test_an_attempt_that_is_asked_for_again_gets_a_new_token(core: Core) -> None:
    first = core.start()
    again = core.ask(first.runner_id)
    assert again is not None
    assert again.order is not None
    assert again.order.brief.attempt_id == first.attempt_id
    with core.database.reading() as session:
        credentials.authenticate(session, CallerKind.ATTEMPT, first.attempt_id, again.order.token)
        with pytest.raises(Unauthorized):
            credentials.authenticate(session, CallerKind.ATTEMPT, first.attempt_id, first.secret)


def test_a_runner_that_asks_has_freed_what_its_attempt_held(core: Core) -> None:
    core.offer(cpus=1)
    standby = _standby(core)
    core.submit()
    claimed = _claim(core)
    core.ask(standby)
    core.finish(claimed.attempt_id)
    core.submit()
    assert core.try_claim() is None, "its processes may still run"
    assert core.ask(standby) is None
    assert core.attempt(claimed.attempt_id).released_at == core.clock.now
    assert _claim(core).runner_id == standby


def test_an_attempt_that_only_delivers_holds_no_resources(core: Core) -> None:
    core.offer(cpus=1)
    delivering = core.start_small(cpus=1)
    core.report(delivering.attempt_id, 1)
    core.submit()
    assert core.try_claim() is None
    with core.database.transaction() as session:
        runners.next_attempt(
            session, delivering.runner_id, trained=delivering.attempt_id, now=core.clock.now
        )
    assert core.try_claim() is not None
    assert core.held("one")[0] == delivering.attempt_id, "its silence would be noticed"
    assert not _gone(core, delivering.runner_id), "its last reports are on their way"
    assert core.finish(delivering.attempt_id) is JobState.SUCCEEDED
    assert _gone(core, delivering.runner_id)


def test_a_question_that_is_asked_again_frees_nothing_more(core: Core) -> None:
    core.offer(cpus=1)
    runner_id = _standby(core)

    def ask_again(first: leases.Claim) -> None:
        with core.database.transaction() as session:
            runners.next_attempt(session, runner_id, trained=first.attempt_id, now=core.clock.now)

    core.submit()
    first = _claim(core)
    core.ask(runner_id)
    ask_again(first)
    core.submit()
    second = _claim(core)
    ask_again(first)
    assert core.runner(runner_id).attempt_id == second.attempt_id
    assert core.attempt(second.attempt_id).released_at is None


def test_the_resources_of_a_dead_attempt_are_free_once_its_runner_is_gone(core: Core) -> None:
    taken = core.run()
    assert not _gone(core, taken.runner_id), "its own dispatcher ends the attempt first"
    core.end(taken, Reason.WORKER_DIED)
    assert _gone(core, taken.runner_id)
    assert core.attempt(taken.attempt_id).released_at == core.clock.now
    assert core.runner(taken.runner_id).state is RayJobState.TERMINATED


def test_a_runner_leaves_after_as_many_attempts_as_it_has_lives(core: Core) -> None:
    core.offer(cpus=1)
    runner_id = _standby(core, max_attempts=2)
    for is_last in (False, True):
        core.submit()
        claimed = _claim(core)
        assert claimed.runner_id == runner_id
        core.ask(runner_id)
        core.finish(claimed.attempt_id)
        orders = core.ask(runner_id)
        assert (orders is not None and orders.is_dismissed) is is_last
    assert core.runner(runner_id).state is RayJobState.DRAINING


def test_a_dismissed_runner_gets_nothing_more(core: Core) -> None:
    core.offer(cpus=4)
    runner_id = _standby(core)
    _dismiss(core, runner_id)
    core.submit()
    assert _claim(core).runner_id != runner_id
    orders = core.ask(runner_id)
    assert orders is not None
    assert orders.is_dismissed


def test_a_runner_on_its_way_out_is_told_what_it_leaves_undone(core: Core) -> None:
    taken = core.run()
    orders = core.ask(taken.runner_id, is_leaving=True)
    assert orders is not None
    assert orders.order is not None
    assert orders.order.brief.attempt_id == taken.attempt_id
    assert core.runner(taken.runner_id).state is RayJobState.DRAINING


def test_standbys_give_way_to_an_attempt_of_another_shape(core: Core) -> None:
    core.offer(cpus=2)
    standbys = [_standby(core), _standby(core)]
    core.submit(resources=workers(2))
    claimed = _claim(core)
    assert core.start_runners() == []
    assert {core.runner(each).state for each in standbys} == {RayJobState.DRAINING}
    assert _gone(core, standbys[0])
    assert core.start_runners() == [], "half of the room is not enough"
    assert _gone(core, standbys[1])
    assert [start.id for start in core.start_runners()] == [claimed.runner_id]


def test_no_more_standbys_give_way_than_must(core: Core) -> None:
    core.offer(cpus=3)
    standbys = [_standby(core), _standby(core)]
    core.submit(resources=workers(2))
    _claim(core)
    core.start_runners()
    states = [core.runner(each).state for each in standbys]
    assert states == [RayJobState.DRAINING, RayJobState.READY], "the least recently used one"


def test_a_runner_with_an_attempt_does_not_give_way(core: Core) -> None:
    core.offer(cpus=2)
    runner_id = _standby(core)
    core.submit()
    busy = _claim(core)
    assert busy.runner_id == runner_id
    core.offer(cpus=3)
    core.submit(resources=workers(2))
    assert len(core.start_runners()) == 0
    _claim(core)
    assert len(core.start_runners()) == 1
    assert core.runner(runner_id).state is RayJobState.READY


def test_a_submission_that_nobody_finished_is_repeated_with_a_new_token(core: Core) -> None:
    core.offer(cpus=4)
    core.submit()
    claimed = _claim(core)

    def starts() -> list[RayJobSubmission[RunnerRow]]:
        with core.database.transaction() as session:
            return runners.take_startable(
                session, ResourceBundle(cpus=4, gpus=0), now=core.clock.now
            )

    (first,) = starts()
    assert starts() == [], "its dispatcher may be telling the cluster this moment"
    core.clock.advance(61.0)
    (second,) = starts()
    assert first.id == second.id == claimed.runner_id
    assert first.secret != second.secret


def test_a_standby_is_kept_of_the_shape_that_was_asked_for_last(core: Core) -> None:
    core.offer(cpus=8)
    assert core.keep_standbys(target=1) == [(RayJobState.PLANNED, ONE)]
    (start,) = core.start_runners()
    assert core.ask(start.id) is None
    taken = core.run(resources=workers(2))
    core.finish(taken.attempt_id)
    core.release(taken)
    core.offer(cpus=8)
    assert core.keep_standbys(target=2)[-1] == (RayJobState.PLANNED, TWO)


def test_the_first_standby_has_as_many_workers_as_the_settings_say(core: Core) -> None:
    core.offer(cpus=2)
    assert core.keep_standbys(target=1, num_workers=2) == [(RayJobState.PLANNED, TWO)]


def test_the_first_standby_has_a_gpu_where_there_is_one(core: Core) -> None:
    core.offer(cpus=4, gpus=1)
    assert core.keep_standbys(target=1) == [(RayJobState.PLANNED, WorkerGroup(1, 1, 1))]


def test_no_standby_where_there_is_no_room(core: Core) -> None:
    core.offer(cpus=1)
    _standby(core)
    assert len(core.keep_standbys(target=2)) == 1


def test_no_standby_while_a_job_waits(core: Core) -> None:
    core.offer(cpus=4)
    core.submit(resources=workers(4))
    assert core.keep_standbys(target=1) == []


def test_no_standby_while_another_runner_comes_up(core: Core) -> None:
    core.offer(cpus=4)
    core.submit()
    claimed = _claim(core)
    core.start_runners()
    assert len(core.keep_standbys(target=1)) == 1
    assert core.ask(claimed.runner_id) is not None
    assert len(core.keep_standbys(target=1)) == 2


def test_no_standby_soon_after_one_that_never_came_up(core: Core) -> None:
    core.offer(cpus=4)
    core.keep_standbys(target=1)
    (start,) = core.start_runners()
    assert _gone(core, start.id)
    assert core.keep_standbys(target=1) == []
    core.clock.advance(61.0)
    assert core.keep_standbys(target=1) == [(RayJobState.PLANNED, ONE)]


def test_a_surplus_of_standbys_is_dismissed_after_a_minute(core: Core) -> None:
    core.offer(cpus=4)
    old, young = _standby(core), _standby(core)
    assert len(core.keep_standbys(target=1)) == 2
    core.clock.advance(61.0)
    core.keep_standbys(target=1)
    assert core.runner(old).state is RayJobState.DRAINING
    assert core.runner(young).state is RayJobState.READY


def test_nothing_waits_where_standbys_are_switched_off(core: Core) -> None:
    core.offer(cpus=4)
    assert core.keep_standbys(target=0) == []


def test_runners_of_yesterday_are_forgotten(core: Core) -> None:
    core.offer(cpus=4)
    runner_id = _standby(core)
    assert _gone(core, runner_id)
    core.clock.now += timedelta(days=2)
    core.keep_standbys(target=0)
    with core.database.reading() as session:
        assert session.get(RunnerRow, runner_id) is None


def test_an_attempt_that_was_cancelled_before_its_runner_came_up_frees_the_runner(
    core: Core,
) -> None:
    core.offer(cpus=4)
    core.submit()
    claimed = _claim(core)
    core.start_runners()
    core.cancel(job_id_of(claimed))
    core.end(_as_taken(claimed), Reason.CANCELLED)
    assert core.ask(claimed.runner_id) is None
    core.submit()
    assert _claim(core).runner_id == claimed.runner_id


def _as_taken(claimed: leases.Claim) -> Taken:
    return Taken(claimed.attempt_id, claimed.fencing_token, claimed.runner_id, secret="")
