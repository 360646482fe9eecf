"""Claims, leases and fencing tokens: each job is claimed once, in its order, where it fits."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from service.errors import LeaseLost
from service.jobs import commands
from service.resources import ResourceBundle, WorkerGroup
from service.scheduling import admission, cluster_state, leases
from service.scheduling.cluster_state import ClusterState
from service.scheduling.leases import Claim
from service.states import AttemptState, JobState, Reason
from service.storage.changes import ChangeKind
from service.storage.database import Database
from service.storage.tables import AttemptRow, JobRow
from tests.support.core import LEASE_SECONDS, START, Core, job_id_of, workers


def _reserved(core: Core) -> ResourceBundle:
    with core.database.reading() as session:
        return cluster_state.sum_reserved(session)


def test_a_claimed_job_has_an_attempt_that_is_starting(core: Core) -> None:
    core.record_cluster(cpus=4)
    job_id = core.submit(resources=workers(2))
    claimed = core.claim("one")
    assert claimed.attempt_id == f"{job_id}-a1"
    assert core.job(job_id).state is JobState.STARTING
    attempt = core.attempt(claimed.attempt_id)
    assert (attempt.number, attempt.owner, attempt.fencing_token) == (1, "one", 1)
    assert attempt.state is AttemptState.STARTING
    assert attempt.lease_expires_at == core.clock.now + timedelta(seconds=LEASE_SECONDS)
    assert _reserved(core) == ResourceBundle(cpus=2, gpus=0)


def test_the_claim_and_its_events_are_one_change(core: Core) -> None:
    core.record_cluster(cpus=4)
    job_id = core.submit()
    core.claim()
    changes = [(event.kind, event.data.get("to")) for event in core.events(job_id)]
    assert changes == [("submitted", None), ("attempt", None), ("state", "starting")]


def test_nothing_is_claimed_before_the_cluster_was_seen(core: Core) -> None:
    core.submit()
    assert core.try_claim() is None


def test_priority_comes_before_age(core: Core) -> None:
    core.record_cluster(cpus=8)
    core.submit(name="old", priority=10)
    core.submit(name="urgent", priority=90)
    core.submit(name="young", priority=10)
    core.submit(name="as urgent", priority=90)
    assert core.start_all(limit=1) == ["urgent", "as urgent", "old", "young"]


def test_nothing_is_claimed_that_does_not_fit(core: Core) -> None:
    core.record_cluster(cpus=3)
    core.submit(name="fits", resources=workers(2))
    core.submit(name="waits", resources=workers(2))
    assert core.start_all(limit=1) == ["fits"]


def test_small_jobs_do_not_overtake_the_head(core: Core) -> None:
    core.record_cluster(cpus=4)
    running = core.start_small(cpus=1)
    core.submit(name="large", resources=workers(4))
    core.submit(name="small")
    assert core.start_all(limit=1) == []
    core.end(running, Reason.DIVERGED)
    core.release(running)
    assert core.start_all(limit=1) == ["large"]


def test_a_job_larger_than_the_cluster_does_not_block_others(core: Core) -> None:
    core.submit(name="too large", resources=workers(64))
    core.record_cluster(cpus=4)
    core.submit(name="small")
    assert core.start_all(limit=1) == ["small"]
    core.record_cluster(cpus=128)
    assert core.start_all(limit=1) == ["too large"]


def test_an_unreadable_spec_fails_its_job_and_no_other(core: Core) -> None:
    core.record_cluster(cpus=4)
    job_id = core.submit(name="from another version")
    core.submit(name="fine")
    with core.database.transaction() as session:
        session.execute(update(JobRow).where(JobRow.id == job_id).values(spec={"layers": 20}))
    assert core.start_all(limit=1) == ["fine"]
    job = core.job(job_id)
    assert job.state is JobState.FAILED
    assert job.reason is Reason.INTERNAL


def test_one_transaction_claims_what_several_would(core: Core) -> None:
    """All that fits, in its order, past a job that cannot begin."""
    core.record_cluster(cpus=6)
    warm = core.start_warm_runner(WorkerGroup(num_workers=2, cpus_per_worker=1, gpus_per_worker=0))
    names = {"first": 2, "unreadable": 1, "second": 2, "third": 1, "too large": 2}
    ids = {name: core.submit(name=name, resources=workers(cpus)) for name, cpus in names.items()}
    with core.database.transaction() as session:
        unreadable = update(JobRow).where(JobRow.id == ids["unreadable"])
        session.execute(unreadable.values(spec={"layers": 20}))
    first, *others = core.claim_jobs()
    started = [core.job(job_id_of(claim)).name for claim in (first, *others)]
    assert started == ["first", "second", "third"]
    assert first.runner_id == warm.id
    assert len({claim.runner_id for claim in others} - {warm.id}) == 2
    for claim in (first, *others):
        attempt = core.attempt(claim.attempt_id)
        assert (attempt.runner_id, attempt.owner) == (claim.runner_id, "one")
        kinds = [event.kind for event in core.events(attempt.job_id)]
        assert kinds == ["submitted", "attempt", "state"]
    assert core.job(ids["unreadable"]).state is JobState.FAILED
    assert _reserved(core) == ResourceBundle(cpus=5, gpus=0)
    assert core.claim_jobs() == []


def test_a_claim_of_several_stops_before_a_job_that_another_transaction_holds(core: Core) -> None:
    core.record_cluster(cpus=8)
    for name in ("first", "held", "behind"):
        core.submit(name=name)
    held = select(JobRow).where(JobRow.name == "held").with_for_update()
    if core.database.is_sqlite:
        pytest.skip("a transaction that writes excludes all others")
    with core.database.transaction() as session:
        session.execute(held)
        assert [core.job(job_id_of(claim)).name for claim in core.claim_jobs()] == ["first"]
    assert [core.job(job_id_of(claim)).name for claim in core.claim_jobs()] == ["held", "behind"]


def test_each_worker_gets_a_gpu_where_the_cluster_has_enough(core: Core) -> None:
    core.record_cluster(cpus=8, gpus=2)
    core.submit(resources=workers(2))
    assert core.attempt(core.claim().attempt_id).gpus_per_worker == 1


def test_workers_go_without_a_gpu_where_the_cluster_never_has_enough(core: Core) -> None:
    core.record_cluster(cpus=8, gpus=1)
    core.submit(resources=workers(2))
    assert core.attempt(core.claim().attempt_id).gpus_per_worker == 0


def test_a_gpu_is_assigned_once(core: Core) -> None:
    core.record_cluster(cpus=8, gpus=1)
    core.submit(name="first")
    core.submit(name="second")
    assert core.start_all(limit=1) == ["first"]


def test_jobs_share_a_gpu_up_to_its_capacity(core: Core) -> None:
    core.record_cluster(cpus=8, gpus=1)
    parts = {"half": 0.5, "quarter": 0.25, "other half": 0.5, "other quarter": 0.25, "rest": 0.25}
    for name, gpus in parts.items():
        core.submit(name=name, resources=workers(1, gpus_per_worker=gpus))
    assert core.start_all(limit=1) == ["half", "quarter", "other quarter"]
    assert _reserved(core) == ResourceBundle(cpus=3, gpus=1)


def test_a_job_in_backoff_is_claimed_when_the_backoff_is_over(core: Core) -> None:
    claimed = core.run()
    core.end(claimed, Reason.WORKER_DIED)
    assert core.try_claim() is None
    with core.database.reading() as session:
        retry_at = admission.find_next_retry_at(session, now=core.clock.now)
    assert retry_at is not None
    core.clock.now = retry_at
    assert core.claim().attempt_id == f"{job_id_of(claimed)}-a2"


def test_no_retry_is_due_where_no_job_is_in_backoff(core: Core) -> None:
    core.submit()
    with core.database.reading() as session:
        assert admission.find_next_retry_at(session, now=core.clock.now) is None


def test_two_dispatchers_never_claim_the_same_job_nor_more_than_fits(core: Core) -> None:
    core.record_cluster(cpus=5)
    for _ in range(8):
        core.submit()
    claims: list[Claim] = []
    together = threading.Barrier(2)

    def claim_all(owner: str) -> None:
        together.wait()
        while (claimed := core.try_claim(owner)) is not None:
            claims.append(claimed)

    threads = [threading.Thread(target=claim_all, args=(owner,)) for owner in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({claimed.attempt_id for claimed in claims}) == len(claims) == 5
    assert _reserved(core) == ResourceBundle(cpus=5, gpus=0)


def test_two_dispatchers_may_record_the_cluster_first_at_the_same_time(core: Core) -> None:
    failed: list[Exception] = []
    together = threading.Barrier(4)

    def record() -> None:
        together.wait()
        try:
            core.record_cluster(cpus=4)
        except Exception as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with core.database.reading() as session:
        assert cluster_state.find_cluster(session) == ClusterState(
            capacity=ResourceBundle(cpus=4, gpus=0),
            nodes=[],
            scalable_nodes=[],
            seen_at=core.clock.now,
        )


def test_an_unchanged_cluster_is_recorded_every_ten_seconds_only(core: Core) -> None:
    core.record_cluster(cpus=4)
    for seconds, is_written in ((5.0, False), (6.0, True)):
        core.clock.advance(seconds)
        core.record_cluster(cpus=4)
        with core.database.reading() as session:
            cluster = cluster_state.find_cluster(session)
        assert cluster is not None
        assert (cluster.seen_at == core.clock.now) is is_written


def test_an_ended_attempt_keeps_its_resources_until_it_is_released(core: Core) -> None:
    core.record_cluster(cpus=1)
    claimed = core.start_small(cpus=1)
    core.submit(name="next")
    core.end(claimed, Reason.DIVERGED)
    assert _reserved(core) == ResourceBundle(cpus=1, gpus=0)
    assert core.try_claim() is None
    core.release(claimed)
    assert _reserved(core) == ResourceBundle(cpus=0, gpus=0)
    assert core.start_all(limit=1) == ["next"]


def test_a_lease_is_taken_over_only_after_it_has_expired(core: Core) -> None:
    claimed = core.start("one")
    core.clock.advance(LEASE_SECONDS)
    assert core.take_over("two") == []
    core.clock.advance(0.1)
    assert [attempt.id for attempt in core.take_over("two")] == [claimed.attempt_id]
    assert core.list_owned("one") == []
    assert core.list_owned("two") == [claimed.attempt_id]
    assert core.attempt(claimed.attempt_id).fencing_token == 2


def test_a_renewed_lease_does_not_expire(core: Core) -> None:
    core.start("one")
    core.clock.advance(LEASE_SECONDS)
    with core.database.transaction() as session:
        leases.renew_leases(session, owner="one", now=core.clock.now, lease_seconds=LEASE_SECONDS)
    core.clock.advance(LEASE_SECONDS)
    assert core.take_over("two") == []


def test_a_heartbeat_does_not_renew_what_was_taken_over(core: Core) -> None:
    claimed = core.start("one")
    core.clock.advance(LEASE_SECONDS + 1)
    core.take_over("two")
    expires_at = core.attempt(claimed.attempt_id).lease_expires_at
    core.clock.advance(1.0)
    with core.database.transaction() as session:
        leases.renew_leases(session, owner="one", now=core.clock.now, lease_seconds=LEASE_SECONDS)
    assert core.attempt(claimed.attempt_id).lease_expires_at == expires_at


def test_released_leases_are_taken_over_at_once(core: Core) -> None:
    claimed = core.start("one")
    with core.database.transaction() as session:
        leases.release_leases(session, owner="one", now=core.clock.now)
    assert [attempt.id for attempt in core.take_over("two")] == [claimed.attempt_id]


def test_a_released_attempt_is_not_taken_over(core: Core) -> None:
    claimed = core.run("one")
    core.finish(claimed.attempt_id)
    core.release(claimed)
    core.clock.advance(LEASE_SECONDS + 1)
    assert core.take_over("two") == []


@pytest.fixture
def fenced(core: Core) -> Claim:
    """An attempt of dispatcher one that dispatcher two has taken over."""
    claimed = core.run("one")
    core.clock.advance(LEASE_SECONDS + 1)
    core.take_over("two")
    return claimed


def test_a_fenced_dispatcher_cannot_end_an_attempt(core: Core, fenced: Claim) -> None:
    with pytest.raises(LeaseLost):
        core.end(fenced, Reason.CLUSTER_LOST)
    assert core.attempt(fenced.attempt_id).state is AttemptState.RUNNING
    assert core.job(job_id_of(fenced)).state is JobState.RUNNING


def test_while_a_dispatcher_writes_its_lease_is_not_taken_over(core: Core) -> None:
    if core.database.is_sqlite:
        pytest.skip("SQLite's transactions are serial")
    claimed = core.run("one")
    core.clock.advance(LEASE_SECONDS + 1)
    with core.database.transaction() as session:
        leases._lock_owned(session, claimed.attempt_id, fencing_token=claimed.fencing_token)
        assert core.take_over("two") == []


def test_a_dispatcher_cannot_end_an_attempt_that_reported_its_end(core: Core) -> None:
    claimed = core.run()
    core.finish(claimed.attempt_id)
    assert not core.end(claimed, Reason.WORKER_DIED)
    assert core.job(job_id_of(claimed)).state is JobState.SUCCEEDED


def test_a_message_may_contain_characters_that_no_database_stores(core: Core) -> None:
    claimed = core.run()
    with core.database.transaction() as session:
        leases.end_attempt(
            session,
            claimed.attempt_id,
            Reason.WORKER_DIED,
            fencing_token=claimed.fencing_token,
            now=core.clock.now,
            message="core dumped: \x00\ud800",
        )
    assert core.attempt(claimed.attempt_id).message == "core dumped: \N{REPLACEMENT CHARACTER}?"


def test_a_release_notifies_listeners(core: Core) -> None:
    claimed = core.run()
    core.finish(claimed.attempt_id)
    changes = core.database.listen(ChangeKind.STATE)
    changes.wait(0.0)
    core.release(claimed)
    assert changes.wait(30.0)
    changes.close()


def test_a_claim_and_a_cancel_at_once_leave_the_job_claimed_or_cancelled(
    database: Database, core: Core
) -> None:
    core.record_cluster(cpus=64)
    ids = [core.submit() for _ in range(10)]
    together = threading.Barrier(2)

    def cancel_all() -> None:
        together.wait()
        for job_id in ids:
            with database.transaction() as session:
                commands.cancel(session, job_id, now=START)

    cancelling = threading.Thread(target=cancel_all)
    cancelling.start()
    together.wait()
    while core.try_claim() is not None:
        pass
    cancelling.join()
    while core.try_claim() is not None:
        pass
    with database.reading() as session:
        attempted = set(session.scalars(select(AttemptRow.job_id)))
    for job_id in ids:
        expected = JobState.STARTING if job_id in attempted else JobState.CANCELLED
        assert core.job(job_id).state is expected
