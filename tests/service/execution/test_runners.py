"""Runners: which attempt each gets, which are drained, and when resources are free again."""

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


def _warm_runner(core: Core, worker_group: WorkerGroup = ONE, *, max_attempts: int = LIVES) -> str:
    """A ready runner without an attempt."""
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
        (claimed,) = admission.claim_jobs(
            session,
            owner="one",
            now=core.clock.now,
            lease_seconds=15.0,
            data_dir=core.data_dir,
            attempts_per_runner=LIVES,
            limit=1,
        )
    return claimed


def _drain(core: Core, runner_id: str) -> None:
    with core.database.transaction() as session:
        runners.drain_runner(session, runner_id, now=core.clock.now)


def _terminate(core: Core, runner_id: str) -> bool:
    with core.database.transaction() as session:
        return runners.mark_terminated(session, runner_id, now=core.clock.now)


def test_a_warm_runner_with_the_same_workers_gets_the_attempt(core: Core) -> None:
    core.record_cluster(cpus=4)
    other, same = _warm_runner(core, TWO), _warm_runner(core, ONE)
    core.submit()
    claimed = _claim(core)
    assert claimed.runner_id == same
    assert core.runner(other).attempt_id is None
    response = core.ask(same)
    assert response is not None
    assert response.assignment is not None
    assert response.assignment.config.attempt_id == claimed.attempt_id


def test_a_ready_runner_is_preferred_to_a_starting_one(core: Core) -> None:
    core.record_cluster(cpus=4)
    with core.database.transaction() as session:
        runners.plan_runner(session, ONE, max_attempts=LIVES, now=core.clock.now)
    core.clock.advance(1.0)
    core.start_runners()
    ready = _warm_runner(core)
    core.submit()
    assert _claim(core).runner_id == ready


def test_without_a_warm_runner_a_runner_is_planned_and_started(core: Core) -> None:
    core.record_cluster(cpus=4)
    core.submit(resources=workers(2))
    claimed = _claim(core)
    assert core.runner(claimed.runner_id).state is RayJobState.PLANNED
    assert core.attempt(claimed.attempt_id).submitted_at is None
    (start,) = core.start_runners()
    assert (start.id, runners.worker_group_of(start.row)) == (claimed.runner_id, TWO)
    assert core.attempt(claimed.attempt_id).submitted_at == core.clock.now


def test_an_attempt_that_is_assigned_again_gets_a_new_token(core: Core) -> None:
    first = core.start()
    again = core.ask(first.runner_id)
    assert again is not None
    assert again.assignment is not None
    assert again.assignment.config.attempt_id == first.attempt_id
    with core.database.reading() as session:
        credentials.authenticate(
            session, CallerKind.ATTEMPT, first.attempt_id, again.assignment.token
        )
        with pytest.raises(Unauthorized):
            credentials.authenticate(session, CallerKind.ATTEMPT, first.attempt_id, first.secret)


def test_a_runner_that_polls_again_frees_the_resources_of_its_ended_attempt(core: Core) -> None:
    core.record_cluster(cpus=1)
    warm_runner = _warm_runner(core)
    core.submit()
    claimed = _claim(core)
    core.ask(warm_runner)
    core.finish(claimed.attempt_id)
    core.submit()
    assert core.try_claim() is None, "the processes of the attempt may still run"
    assert core.ask(warm_runner) is None
    assert core.attempt(claimed.attempt_id).released_at == core.clock.now
    assert _claim(core).runner_id == warm_runner


def test_an_attempt_that_only_delivers_occupies_no_resources(core: Core) -> None:
    core.record_cluster(cpus=1)
    delivering = core.start_small(cpus=1)
    core.report(delivering.attempt_id, 1)
    core.submit()
    assert core.try_claim() is None
    with core.database.transaction() as session:
        runners.next_attempt(
            session,
            delivering.runner_id,
            trained_attempt_id=delivering.attempt_id,
            now=core.clock.now,
        )
    assert core.try_claim() is not None
    assert core.list_owned("one")[0] == delivering.attempt_id, "its silence must be noticed"
    assert not _terminate(core, delivering.runner_id), "its last reports may be under way"
    assert core.finish(delivering.attempt_id) is JobState.SUCCEEDED
    assert _terminate(core, delivering.runner_id)


def test_a_repeated_poll_frees_nothing_more(core: Core) -> None:
    core.record_cluster(cpus=1)
    runner_id = _warm_runner(core)

    def ask_again(first: leases.Claim) -> None:
        with core.database.transaction() as session:
            runners.next_attempt(
                session, runner_id, trained_attempt_id=first.attempt_id, now=core.clock.now
            )

    core.submit()
    first = _claim(core)
    core.ask(runner_id)
    ask_again(first)
    core.submit()
    second = _claim(core)
    ask_again(first)
    assert core.runner(runner_id).attempt_id == second.attempt_id
    assert core.attempt(second.attempt_id).released_at is None


def test_the_resources_of_a_dead_attempt_are_free_once_its_runner_has_terminated(
    core: Core,
) -> None:
    taken = core.run()
    assert not _terminate(core, taken.runner_id), "its own dispatcher ends the attempt first"
    core.end(taken, Reason.WORKER_DIED)
    assert _terminate(core, taken.runner_id)
    assert core.attempt(taken.attempt_id).released_at == core.clock.now
    assert core.runner(taken.runner_id).state is RayJobState.TERMINATED


def test_a_runner_is_drained_after_its_maximum_of_attempts(core: Core) -> None:
    core.record_cluster(cpus=1)
    runner_id = _warm_runner(core, max_attempts=2)
    for is_last in (False, True):
        core.submit()
        claimed = _claim(core)
        assert claimed.runner_id == runner_id
        core.ask(runner_id)
        core.finish(claimed.attempt_id)
        response = core.ask(runner_id)
        assert (response is not None and response.should_exit) is is_last
    assert core.runner(runner_id).state is RayJobState.DRAINING


def test_a_drained_runner_gets_no_further_attempt(core: Core) -> None:
    core.record_cluster(cpus=4)
    runner_id = _warm_runner(core)
    _drain(core, runner_id)
    core.submit()
    assert _claim(core).runner_id != runner_id
    response = core.ask(runner_id)
    assert response is not None
    assert response.should_exit


def test_a_leaving_runner_gets_its_unfinished_attempt(core: Core) -> None:
    taken = core.run()
    response = core.ask(taken.runner_id, is_exiting=True)
    assert response is not None
    assert response.assignment is not None
    assert response.assignment.config.attempt_id == taken.attempt_id
    assert core.runner(taken.runner_id).state is RayJobState.DRAINING


def test_warm_runners_are_drained_for_an_attempt_with_other_workers(core: Core) -> None:
    core.record_cluster(cpus=2)
    warm_runners = [_warm_runner(core), _warm_runner(core)]
    core.submit(resources=workers(2))
    claimed = _claim(core)
    assert core.start_runners() == []
    assert {core.runner(runner_id).state for runner_id in warm_runners} == {RayJobState.DRAINING}
    assert _terminate(core, warm_runners[0])
    assert core.start_runners() == [], "half of the resources are not enough"
    assert _terminate(core, warm_runners[1])
    assert [start.id for start in core.start_runners()] == [claimed.runner_id]


def test_no_more_warm_runners_are_drained_than_needed(core: Core) -> None:
    core.record_cluster(cpus=3)
    warm_runners = [_warm_runner(core), _warm_runner(core)]
    core.submit(resources=workers(2))
    _claim(core)
    core.start_runners()
    states = [core.runner(runner_id).state for runner_id in warm_runners]
    assert states == [RayJobState.DRAINING, RayJobState.READY], (
        "the least recently used one is drained"
    )


def test_a_runner_with_an_attempt_is_not_drained(core: Core) -> None:
    core.record_cluster(cpus=2)
    runner_id = _warm_runner(core)
    core.submit()
    busy = _claim(core)
    assert busy.runner_id == runner_id
    core.record_cluster(cpus=3)
    core.submit(resources=workers(2))
    assert len(core.start_runners()) == 0
    _claim(core)
    assert len(core.start_runners()) == 1
    assert core.runner(runner_id).state is RayJobState.READY


def test_an_unconfirmed_submission_is_repeated_with_a_new_token(core: Core) -> None:
    core.record_cluster(cpus=4)
    core.submit()
    claimed = _claim(core)

    def starts() -> list[RayJobSubmission[RunnerRow]]:
        with core.database.transaction() as session:
            return runners.take_startable(
                session, ResourceBundle(cpus=4, gpus=0), now=core.clock.now
            )

    (first,) = starts()
    assert starts() == [], "its dispatcher may be submitting it at this moment"
    core.clock.advance(61.0)
    (second,) = starts()
    assert first.id == second.id == claimed.runner_id
    assert first.secret != second.secret


def test_a_warm_runner_has_the_workers_of_the_newest_attempt(core: Core) -> None:
    core.record_cluster(cpus=8)
    assert core.reconcile_warm_pool(target=1) == [(RayJobState.PLANNED, ONE)]
    (start,) = core.start_runners()
    assert core.ask(start.id) is None
    taken = core.run(resources=workers(2))
    core.finish(taken.attempt_id)
    core.release(taken)
    core.record_cluster(cpus=8)
    assert core.reconcile_warm_pool(target=2)[-1] == (RayJobState.PLANNED, TWO)


def test_the_first_warm_runner_has_the_number_of_workers_of_the_settings(core: Core) -> None:
    core.record_cluster(cpus=2)
    assert core.reconcile_warm_pool(target=1, num_workers=2) == [(RayJobState.PLANNED, TWO)]


def test_the_first_warm_runner_has_a_gpu_where_the_cluster_has_one(core: Core) -> None:
    core.record_cluster(cpus=4, gpus=1)
    assert core.reconcile_warm_pool(target=1) == [(RayJobState.PLANNED, WorkerGroup(1, 1, 1))]


def test_no_warm_runner_is_planned_that_does_not_fit(core: Core) -> None:
    core.record_cluster(cpus=1)
    _warm_runner(core)
    assert len(core.reconcile_warm_pool(target=2)) == 1


def test_no_warm_runner_is_planned_while_a_job_waits(core: Core) -> None:
    core.record_cluster(cpus=4)
    core.submit(resources=workers(4))
    assert core.reconcile_warm_pool(target=1) == []


def test_no_warm_runner_is_planned_while_another_runner_starts(core: Core) -> None:
    core.record_cluster(cpus=4)
    core.submit()
    claimed = _claim(core)
    core.start_runners()
    assert len(core.reconcile_warm_pool(target=1)) == 1
    assert core.ask(claimed.runner_id) is not None
    assert len(core.reconcile_warm_pool(target=1)) == 2


def test_no_warm_runner_is_planned_soon_after_one_that_never_became_ready(core: Core) -> None:
    core.record_cluster(cpus=4)
    core.reconcile_warm_pool(target=1)
    (start,) = core.start_runners()
    assert _terminate(core, start.id)
    assert core.reconcile_warm_pool(target=1) == []
    core.clock.advance(61.0)
    assert core.reconcile_warm_pool(target=1) == [(RayJobState.PLANNED, ONE)]


def test_surplus_warm_runners_are_drained_after_a_minute(core: Core) -> None:
    core.record_cluster(cpus=4)
    old, young = _warm_runner(core), _warm_runner(core)
    assert len(core.reconcile_warm_pool(target=1)) == 2
    core.clock.advance(61.0)
    core.reconcile_warm_pool(target=1)
    assert core.runner(old).state is RayJobState.DRAINING
    assert core.runner(young).state is RayJobState.READY


def test_no_warm_runner_is_planned_where_the_warm_pool_is_off(core: Core) -> None:
    core.record_cluster(cpus=4)
    assert core.reconcile_warm_pool(target=0) == []


def test_terminated_runners_are_deleted_after_a_day(core: Core) -> None:
    core.record_cluster(cpus=4)
    runner_id = _warm_runner(core)
    assert _terminate(core, runner_id)
    core.clock.now += timedelta(days=2)
    core.reconcile_warm_pool(target=0)
    with core.database.reading() as session:
        assert session.get(RunnerRow, runner_id) is None


def test_an_attempt_that_was_cancelled_before_its_runner_was_ready_frees_the_runner(
    core: Core,
) -> None:
    core.record_cluster(cpus=4)
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
