"""Jobs: submitted once, found in pages, cancelled in every state, moved along the arrows only."""

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from service.errors import CannotFit, IdempotencyMismatch, IllegalTransition, NotFound
from service.jobs import lifecycle, records, submission
from service.resources import ResourceBundle
from service.states import NEXT_STATES, JobState, Reason
from service.storage.database import Database
from tests.support.core import START, Core, job_id_of, spec
from tests.support.fake_api import eventually


def _pages(core: Core, *, limit: int) -> list[list[str]]:
    pages: list[list[str]] = []
    token = None
    while True:
        with core.database.reading() as session:
            page = records.list_page(session, limit=limit, token=token)
        pages.append([job.id for job in page.rows])
        if page.next_token is None:
            return pages
        token = page.next_token


def _wait_for_a_blocked_backend(database: Database) -> None:
    engine = database.engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        eventually(
            lambda: connection.scalar(
                text(
                    "SELECT count(*) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
            )
        )


def _found(core: Core, **filters: object) -> list[str]:
    with core.database.reading() as session:
        page = records.list_page(session, limit=100, **filters)  # type: ignore[arg-type] # as given
        return [job.name for job in page.rows]


def test_a_submitted_job_waits_with_its_whole_spec(core: Core) -> None:
    job = core.job(core.submit(name="first", priority=70))
    assert job.state is JobState.QUEUED
    assert job.priority == 70
    assert records.spec_of(job) == spec(name="first", priority=70)
    assert job.created_at == core.clock.now
    assert [event.kind for event in core.events(job.id)] == ["submitted"]


def test_a_repeated_key_finds_the_job_that_it_made(core: Core) -> None:
    first = core.submit(key="k1")
    assert core.submit(key="k1") == first
    assert _pages(core, limit=10) == [[first]]


def test_a_key_for_another_body_is_refused(core: Core) -> None:
    core.submit(key="k1")
    with pytest.raises(IdempotencyMismatch, match="'k1'"):
        core.submit(key="k1", seed=7)


def test_jobs_without_a_key_are_each_their_own(core: Core) -> None:
    assert core.submit() != core.submit()


def test_one_key_from_many_threads_makes_one_job(core: Core) -> None:
    made: list[str] = []
    together = threading.Barrier(4)

    def submit() -> None:
        together.wait()
        with core.database.transaction() as session:
            submitted = submission.submit(
                session, spec(), user="ann", now=core.clock.now, idempotency_key="k"
            )
        made.append(submitted.row.id)

    threads = [threading.Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert len(set(made)) == 1
    assert [event.kind for event in core.events(made[0])] == ["submitted"]


def test_a_second_request_that_waited_for_the_first_one_is_its_replay(database: Database) -> None:
    if database.is_sqlite:
        pytest.skip("its transactions come one after the other")
    core_spec = spec()
    replays: list[bool] = []

    def submit() -> None:
        with database.transaction() as session:
            again = submission.submit(
                session, core_spec, user="ann", now=START, idempotency_key="k"
            )
            replays.append(again.is_replay)

    with database.transaction() as session:
        submission.submit(session, core_spec, user="ann", now=START, idempotency_key="k")
        session.flush()
        second = threading.Thread(target=submit)
        second.start()
        _wait_for_a_blocked_backend(database)
    second.join()
    assert replays == [True]


def test_pages_hold_every_job_once_newest_first(core: Core) -> None:
    made = [core.submit() for _ in range(7)]
    assert _pages(core, limit=3) == [made[6:3:-1], made[3:0:-1], [made[0]]]


def test_a_job_that_comes_between_two_pages_shifts_nothing(core: Core) -> None:
    made = [core.submit() for _ in range(4)]
    with core.database.reading() as session:
        first = records.list_page(session, limit=2)
    core.submit()
    with core.database.reading() as session:
        second = records.list_page(session, limit=2, token=first.next_token)
    assert [job.id for job in [*first.rows, *second.rows]] == made[::-1]


def test_the_last_page_is_known_as_the_last(core: Core) -> None:
    made = [core.submit() for _ in range(2)]
    assert _pages(core, limit=2) == [made[::-1]]


def test_filters_are_all_required(core: Core) -> None:
    core.submit(name="one", tags=["a", "b"])
    core.submit(name="two", tags=["a"])
    core.submit(name="three", dataset="fake", tags=["a", "b"])
    assert _found(core, tags=["a"]) == ["three", "two", "one"]
    assert _found(core, tags=["a", "b"]) == ["three", "one"]
    assert _found(core, tags=["a", "b"], dataset="digits") == ["one"]
    assert _found(core, tags=["c"]) == []


def test_any_of_several_states_is_found(core: Core) -> None:
    core.submit(name="waits")
    core.cancel(core.submit(name="gone"))
    assert _found(core, states=[JobState.CANCELLED]) == ["gone"]
    assert _found(core, states=[JobState.CANCELLED, JobState.QUEUED]) == ["gone", "waits"]


def test_a_part_of_the_name_is_taken_literally(core: Core) -> None:
    core.submit(name="50% of_it")
    core.submit(name="50 or more, fit")
    assert _found(core, name="0% of_") == ["50% of_it"]


def test_an_id_is_found_by_its_beginning(core: Core) -> None:
    job_id = core.submit(name="one")
    assert _found(core, id_prefix=job_id[:12]) == ["one"]
    assert _found(core, id_prefix="zz") == []


@pytest.mark.parametrize("job_id", ["", "nobody", "0" * 16, "x\x00", "0e3k'; --"])
def test_a_job_that_is_not_there_is_not_found(core: Core, job_id: str) -> None:
    with core.database.reading() as session, pytest.raises(NotFound):
        records.find_job(session, job_id)
    with core.database.transaction() as session, pytest.raises(NotFound):
        lifecycle.lock_job(session, job_id)


def test_a_waiting_job_is_cancelled_at_once(core: Core) -> None:
    job_id = core.submit()
    assert core.cancel(job_id) is JobState.CANCELLED
    job = core.job(job_id)
    assert job.reason is Reason.CANCELLED
    assert job.finished_at == core.clock.now
    assert core.try_claim() is None


def test_a_starting_job_is_asked_to_stop(core: Core) -> None:
    job_id = job_id_of(core.start())
    assert core.cancel(job_id) is JobState.STARTING
    assert core.job(job_id).stop_requested_at == core.clock.now


def test_a_running_job_is_asked_to_stop(core: Core) -> None:
    job_id = job_id_of(core.run())
    assert core.cancel(job_id) is JobState.RUNNING
    assert core.events(job_id)[-1].kind == "stop-requested"


def test_a_repeated_cancel_changes_nothing(core: Core) -> None:
    running, waiting = job_id_of(core.run()), core.submit()
    for job_id in (running, waiting):
        core.cancel(job_id)
        told = len(core.events(job_id))
        core.cancel(job_id)
        assert len(core.events(job_id)) == told


@pytest.mark.parametrize("reason", [Reason.COMPLETED, Reason.DIVERGED])
def test_a_job_that_has_ended_cannot_be_cancelled(core: Core, reason: Reason) -> None:
    claimed = core.run()
    ended = core.finish(claimed.attempt_id, reason)
    with pytest.raises(IllegalTransition, match=str(ended)):
        core.cancel(job_id_of(claimed))


@pytest.mark.parametrize("state", JobState)
def test_exactly_the_arrows_of_the_diagram_may_be_walked(core: Core, state: JobState) -> None:
    job_id = core.submit()
    for wanted in JobState:
        with core.database.transaction() as session:
            job = lifecycle.lock_job(session, job_id)
            job.state = state
            if wanted in NEXT_STATES[state]:
                lifecycle.transition(session, job, wanted, now=core.clock.now)
                assert job.state is wanted
                continue
            with pytest.raises(IllegalTransition):
                lifecycle.transition(session, job, wanted, now=core.clock.now)
            assert job.state is state


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choices=st.lists(st.sampled_from(JobState), max_size=12))
def test_events_tell_exactly_the_moves_that_were_made(core: Core, choices: list[JobState]) -> None:
    job_id = core.submit()
    walked = [JobState.QUEUED]
    for wanted in choices:
        core.clock.advance(1.0)
        with core.database.transaction() as session:
            job = lifecycle.lock_job(session, job_id)
            try:
                lifecycle.transition(session, job, wanted, now=core.clock.now)
            except IllegalTransition:
                assert wanted not in NEXT_STATES[walked[-1]]
            else:
                walked.append(wanted)
    told = core.events(job_id)
    assert [event.number for event in told] == list(range(1, len(told) + 1))
    assert [event.data["to"] for event in told[1:]] == walked[1:]
    job = core.job(job_id)
    assert job.state is walked[-1]
    assert (job.finished_at is not None) == job.state.is_final
    assert (job.started_at is not None) == (JobState.RUNNING in walked)


def test_what_the_cluster_can_never_hold_is_refused(core: Core) -> None:
    core.record_cluster(cpus=4, gpus=1)
    core.submit(resources={"num_workers": 4})
    with pytest.raises(CannotFit) as caught:
        core.submit(resources={"num_workers": 4, "cpus_per_worker": 2})
    (fault,) = caught.value.field_errors
    assert fault.pointer == "/resources"
    assert fault.message == "4 workers need 8 CPUs; the cluster has 4"


def test_more_gpus_than_there_are_is_refused(core: Core) -> None:
    core.record_cluster(cpus=4, gpus=1)
    with pytest.raises(CannotFit) as caught:
        core.submit(resources={"num_workers": 2, "gpus_per_worker": 1})
    assert "2 GPUs" in caught.value.field_errors[0].message


@pytest.mark.parametrize(
    ("nodes", "resources", "told"),
    [
        (
            [ResourceBundle(cpus=4, gpus=0), ResourceBundle(cpus=4, gpus=0)],
            {"num_workers": 1, "cpus_per_worker": 8},
            "each worker needs one node with 8 CPUs; no node has that",
        ),
        (
            [ResourceBundle(cpus=3, gpus=0), ResourceBundle(cpus=5, gpus=0)],
            {"num_workers": 4, "cpus_per_worker": 2},
            "each worker needs one node with 2 CPUs; only 3 of the 4 workers fit",
        ),
        (
            [ResourceBundle(cpus=7, gpus=0), ResourceBundle(cpus=1, gpus=2)],
            {"num_workers": 2, "gpus_per_worker": 1},
            "each worker needs one node with 1 CPU and 1 GPU; only 1 of the 2 workers fits",
        ),
        (
            [ResourceBundle(cpus=7, gpus=0), ResourceBundle(cpus=1, gpus=1)],
            {"num_workers": 1, "cpus_per_worker": 2, "gpus_per_worker": 0.5},
            "each worker needs one node with 2 CPUs and 0.5 GPUs; no node has that",
        ),
    ],
)
def test_a_worker_that_no_node_can_hold_is_refused(
    core: Core, nodes: list[ResourceBundle], resources: dict[str, float], told: str
) -> None:
    core.record_cluster(cpus=8, gpus=sum(node.gpus for node in nodes), nodes=nodes)
    with pytest.raises(CannotFit) as caught:
        core.submit(resources=resources)
    assert caught.value.field_errors[0].message == told
    core.submit(resources=resources | {"num_workers": 1, "cpus_per_worker": 1})


def test_before_any_dispatcher_has_seen_the_cluster_nothing_is_refused(core: Core) -> None:
    assert core.submit(resources={"num_workers": 64})
