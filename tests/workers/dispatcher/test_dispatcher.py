"""The dispatcher claims jobs, watches attempts, and survives outages and its own restart."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from service import log
from service.errors import CannotFit, ClusterUnavailable
from service.resources import ResourceBundle
from service.scheduling import cluster_state, dispatchers
from service.scheduling.dispatchers import DispatchersState
from service.settings import Settings
from service.states import AttemptState, JobState, Reason
from service.storage.tables import AttemptRow, JobRow
from tests.support.cluster import (
    BACKOFF_SECONDS,
    FakeCluster,
    Make,
    attempts_started,
    claim_only,
    later_round,
    leave,
    reserved_cpus,
    run,
    running,
    start,
)
from tests.support.core import Core, job_id_of, workers
from tests.support.fake_api import eventually
from workers.cluster.ray_jobs import ClusterJobState
from workers.dispatcher.dispatcher import Dispatcher

_OTHER_EXTRAS = ("PIL", "fastapi", "numpy", "optuna", "ray", "sklearn", "tenacity", "torch")


@contextmanager
def _no_error() -> Iterator[None]:
    """The dispatcher logs no error."""
    with capture_logs() as logged:
        yield
    assert [entry for entry in logged if entry["log_level"] == "error"] == []


# Claims


def test_a_waiting_job_is_claimed_and_its_runner_started(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    attempt_id = start(core, dispatcher)
    assert cluster.started == [core.runner_of(attempt_id)]
    assert core.job(job_id_of(attempt_id)).state is JobState.STARTING
    attempt = core.attempt(attempt_id)
    assert (attempt.owner, attempt.submitted_at) == (dispatcher.owner, core.clock.now)


def test_lines_about_an_attempt_have_its_ids_and_those_of_the_job(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    log.configure("json")
    attempt_id = run(core, dispatcher)
    cluster.end(core.runner_of(attempt_id), ClusterJobState.FAILED)
    later_round(core, dispatcher)
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    about = [
        line["event"]
        for line in lines
        if (line.get("job_id"), line.get("attempt_id")) == (job_id_of(attempt_id), attempt_id)
    ]
    assert about == ["job claimed", "attempt ended"]


def test_nothing_is_started_that_does_not_fit(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    first = core.submit(resources=workers(1, cpus_per_worker=3))
    core.submit(resources=workers(2))
    dispatcher.run_round()
    later_round(core, dispatcher)
    assert attempts_started(core, cluster) == [f"{first}-a1"]


def test_no_more_is_assigned_than_the_settings_allow(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    core.submit()
    core.submit()
    make(max_cpus=1).run_round()
    assert len(cluster.started) == 1


def test_a_waiting_job_is_started_once_the_cluster_has_grown(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    job_id = core.submit(resources=workers(8))
    dispatcher.run_round()
    assert cluster.started == []
    cluster.cpus = 8
    later_round(core, dispatcher)
    assert attempts_started(core, cluster) == [f"{job_id}-a1"]


def test_a_cluster_without_a_node_says_nothing_about_its_size(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    dispatcher.run_round()
    cluster.cpus = 0
    later_round(core, dispatcher)
    with core.database.reading() as session:
        cluster_seen = cluster_state.find_cluster(session)
    assert cluster_seen is not None
    assert cluster_seen.capacity == ResourceBundle(cpus=4, gpus=0)


def test_a_worker_larger_than_every_node_is_refused_once_the_cluster_was_seen(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    cluster.nodes = 2
    core.submit(resources=workers(1, cpus_per_worker=4))
    dispatcher.run_round()
    with pytest.raises(CannotFit, match="never run"):
        core.submit(resources=workers(1, cpus_per_worker=4))
    core.submit(resources=workers(2, cpus_per_worker=2))


def test_a_change_in_the_database_causes_no_request_to_ray(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    dispatcher = make(poll_interval_seconds=60.0)
    dispatcher.run_round()
    attempt_id = start(core, dispatcher)
    assert attempts_started(core, cluster) == [attempt_id]
    assert cluster.list_requests == 1


def test_the_next_round_is_due_with_the_next_reconciliation(make: Make) -> None:
    assert make(poll_interval_seconds=7.0).run_round() == 7.0


def test_a_round_is_due_when_a_backoff_is_over(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    dispatcher = make(poll_interval_seconds=60.0)
    attempt_id = run(core, dispatcher)
    core.finish(attempt_id, Reason.CLUSTER_LOST)
    leave(core, cluster, core.runner_of(attempt_id))
    core.clock.advance(0.1)
    assert dispatcher.run_round() == pytest.approx(0.2), "its runner is draining"
    core.clock.advance(0.2)
    not_before = core.job(job_id_of(attempt_id)).not_before
    assert not_before is not None
    left = (not_before - core.clock.now).total_seconds()
    assert dispatcher.run_round() == pytest.approx(left)


# Restarts, and several dispatchers


def test_a_restarted_dispatcher_finds_its_attempts_and_starts_no_runner_twice(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, make: Make, settings: Settings
) -> None:
    attempt_id = run(core, dispatcher)
    restarted = make()
    later_round(core, restarted, after_seconds=settings.lease_seconds + 1)
    assert core.list_owned(restarted.owner) == [attempt_id]
    assert len(cluster.submissions) == 1
    assert core.job(job_id_of(attempt_id)).state is JobState.RUNNING
    core.finish(attempt_id)
    leave(core, cluster, core.runner_of(attempt_id))
    later_round(core, restarted)
    assert core.list_owned(restarted.owner) == []
    assert core.job(job_id_of(attempt_id)).state is JobState.SUCCEEDED


def test_a_restarted_dispatcher_submits_the_runner_of_a_claimed_attempt(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, make: Make
) -> None:
    attempt_id = claim_only(core, dispatcher)
    later_round(core, make())
    assert attempts_started(core, cluster) == [attempt_id]
    assert core.attempt(attempt_id).submitted_at == core.clock.now


def test_a_dispatcher_leaves_the_attempts_of_a_living_one_alone(
    core: Core, dispatcher: Dispatcher, make: Make, settings: Settings
) -> None:
    attempt_id = run(core, dispatcher)
    later_round(core, make(), after_seconds=settings.lease_seconds - 1)
    assert core.list_owned(dispatcher.owner) == [attempt_id]


def test_a_stopping_dispatcher_releases_its_attempts_at_once(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    first, second = make(poll_interval_seconds=0.02), make()
    core.submit()
    with running(first):
        eventually(lambda: cluster.started)
    second.run_round()
    assert core.list_owned(second.owner) == attempts_started(core, cluster)


def test_a_dispatcher_records_its_rounds_until_it_stops(core: Core, make: Make) -> None:
    def read() -> DispatchersState:
        with core.database.reading() as session:
            return dispatchers.read_state(session, now=core.clock.now)

    with running(make(poll_interval_seconds=0.02, lease_seconds=0.06)):

        def has_recorded() -> bool:
            # A heartbeat is recorded every ten seconds.
            core.clock.advance(10.0)
            found = read()
            return found.running == 1 and found.round_at is not None

        eventually(has_recorded)
    assert read().running == 0


def test_an_attempt_that_was_taken_over_is_not_ended_by_its_former_owner(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    taken, kept = run(core, dispatcher), run(core, dispatcher)
    for attempt_id in (taken, kept):
        cluster.end(core.runner_of(attempt_id), ClusterJobState.FAILED)
    with core.database.transaction() as session:
        session.execute(
            update(AttemptRow)
            .where(AttemptRow.id == taken)
            .values(lease_expires_at=core.clock.now - timedelta(seconds=1))
        )
    cluster.meanwhile = lambda: core.take_over("two")
    with _no_error():
        later_round(core, dispatcher)
    assert core.attempt(taken).state is AttemptState.RUNNING
    assert core.list_owned("two") == [taken]
    assert core.attempt(kept).state is AttemptState.ENDED, "one lost lease costs no other attempt"


def test_leases_are_renewed_while_ray_does_not_respond(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    dispatcher = make(poll_interval_seconds=0.02, lease_seconds=0.1)
    attempt_id = run(core, dispatcher)
    cluster.is_answering.clear()
    core.clock.advance(60.0)
    with running(dispatcher):
        eventually(lambda: core.attempt(attempt_id).lease_expires_at > core.clock.now)
        cluster.is_answering.set()


# Ends


def test_a_finished_attempt_is_released_when_its_runner_polls_again(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    attempt_id = run(core, dispatcher)
    core.finish(attempt_id)
    later_round(core, dispatcher)
    assert core.list_owned(dispatcher.owner) == [attempt_id]
    leave(core, cluster, core.runner_of(attempt_id))
    later_round(core, dispatcher)
    assert core.list_owned(dispatcher.owner) == []
    assert core.job(job_id_of(attempt_id)).state is JobState.SUCCEEDED
    assert cluster.stops == []


def test_resources_are_assigned_again_only_once_the_runner_has_terminated(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    first = run(core, dispatcher, resources=workers(4))
    second = start(core, dispatcher)
    core.finish(first)
    later_round(core, dispatcher)
    assert reserved_cpus(core) == 4
    response = core.ask(core.runner_of(first))
    assert response is not None
    assert response.should_exit
    later_round(core, dispatcher)
    assert attempts_started(core, cluster) == [first], "its processes have not exited yet"
    cluster.end(core.runner_of(first), ClusterJobState.SUCCEEDED)
    later_round(core, dispatcher)
    assert attempts_started(core, cluster) == [first, second]


def test_an_attempt_whose_runner_exited_without_a_result_is_retried(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    first = run(core, dispatcher)
    runner_id = core.runner_of(first)
    cluster.end(runner_id, ClusterJobState.FAILED, "the driver was killed")
    later_round(core, dispatcher)
    job = core.job(job_id_of(first))
    assert (job.state, job.reason) == (JobState.QUEUED, Reason.WORKER_DIED)
    assert job.message is not None
    assert "the driver was killed" in job.message
    assert f"the log of {runner_id}" in job.message
    later_round(core, dispatcher, after_seconds=BACKOFF_SECONDS)
    assert attempts_started(core, cluster) == [first, f"{job.id}-a2"]
    assert list(cluster.jobs) == [core.runner_of(f"{job.id}-a2")]
    assert reserved_cpus(core) == 1


def test_an_attempt_whose_runner_died_before_its_first_poll_is_retried(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    attempt_id = start(core, dispatcher)
    cluster.end(core.runner_of(attempt_id), ClusterJobState.FAILED)
    later_round(core, dispatcher)
    job = core.job(job_id_of(attempt_id))
    assert (job.state, job.reason) == (JobState.QUEUED, Reason.WORKER_DIED)


def test_an_attempt_whose_runner_ray_no_longer_knows_is_lost_and_retried(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    attempt_id = run(core, dispatcher)
    cluster.jobs.clear()
    later_round(core, dispatcher, after_seconds=15.0)
    assert core.attempt(attempt_id).state is AttemptState.RUNNING, "the list may be older"
    later_round(core, dispatcher)
    job = core.job(job_id_of(attempt_id))
    assert (job.state, job.reason) == (JobState.QUEUED, Reason.CLUSTER_LOST)
    later_round(core, dispatcher, after_seconds=BACKOFF_SECONDS)
    assert attempts_started(core, cluster) == [attempt_id, f"{job.id}-a2"]


def test_an_end_that_is_reported_while_ray_is_queried_counts(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    attempt_id = run(core, dispatcher)
    cluster.end(core.runner_of(attempt_id), ClusterJobState.SUCCEEDED)
    cluster.meanwhile = lambda: core.finish(attempt_id)
    with _no_error():
        later_round(core, dispatcher)
    assert core.job(job_id_of(attempt_id)).state is JobState.SUCCEEDED


# Outages, and rows that cannot be read


def test_no_attempt_is_ended_while_ray_is_unavailable(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, settings: Settings
) -> None:
    attempt_id = run(core, dispatcher)
    before = core.job(job_id_of(attempt_id)).event_count
    cluster.is_away = True
    for _ in range(3):
        with pytest.raises(ClusterUnavailable):
            later_round(core, dispatcher, after_seconds=settings.heartbeat_timeout_seconds)
    cluster.is_away = False
    core.report(attempt_id, 2)
    later_round(core, dispatcher)
    assert core.job(job_id_of(attempt_id)).event_count == before
    assert len(cluster.submissions) == 1


def test_a_dispatcher_retries_while_ray_is_unavailable(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    cluster.is_away = True
    job_id = core.submit()
    with running(make(poll_interval_seconds=0.02)):
        eventually(lambda: cluster.list_requests > 2)
        assert core.job(job_id).state is JobState.QUEUED
        cluster.is_away = False
        eventually(lambda: core.job(job_id).state is JobState.STARTING)


def test_silence_counts_from_when_ray_is_available_again(
    core: Core, cluster: FakeCluster, make: Make, settings: Settings
) -> None:
    """What made Ray unavailable may have stopped reports, too."""
    dispatcher = make(poll_interval_seconds=0.02)
    attempt_id = run(core, dispatcher)
    cluster.is_away = True
    with running(dispatcher):
        core.clock.advance(10 * settings.heartbeat_timeout_seconds)
        before = cluster.list_requests
        eventually(lambda: cluster.list_requests > before + 1)
    cluster.is_away = False
    later_round(core, dispatcher)
    assert core.attempt(attempt_id).state is AttemptState.RUNNING


def test_a_new_job_ends_the_wait_for_the_next_round(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    with running(make(poll_interval_seconds=60.0), to_wake_it=core.submit):
        eventually(lambda: cluster.list_requests == 1)
        job_id = core.submit()
        eventually(lambda: attempts_started(core, cluster) == [f"{job_id}-a1"])


def test_an_unreadable_row_stops_no_other_job(core: Core, cluster: FakeCluster, make: Make) -> None:
    dispatcher = make(poll_interval_seconds=0.02)
    unreadable = run(core, dispatcher)
    with core.database.transaction() as session:
        session.execute(
            update(JobRow)
            .where(JobRow.id == job_id_of(unreadable))
            .values(spec={"from": "another version"})
        )
    second, third = run(core, dispatcher), core.submit()
    cluster.end(core.runner_of(second), ClusterJobState.FAILED)
    with running(dispatcher):
        eventually(lambda: core.attempt(second).state is AttemptState.ENDED)
        eventually(lambda: f"{third}-a1" in attempts_started(core, cluster))


def test_the_dispatcher_imports_no_package_of_another_extra() -> None:
    program = f"""
import sys
sys.modules.update(dict.fromkeys({_OTHER_EXTRAS}))
from workers.cluster import ray_jobs
from workers.dispatcher import alert_checker, delivery_sender, dispatcher, mailer, mlflow_mirror
"""
    subprocess.run([sys.executable, "-c", program], check=True)
