"""The dispatcher: claims and submits, watches, and survives what goes away under it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from service import attempts, queue
from service.errors import ClusterUnavailable, Unauthorized
from service.pools import Pool
from service.settings import Settings
from service.states import AttemptState, JobState, Reason
from service.tables import AttemptRow, JobRow
from tests.support.cluster import FakeCluster
from tests.support.core import Core, job_id_of, workers
from tests.support.fake_api import eventually
from workers.cluster.ray_jobs import ClusterJobState
from workers.dispatcher import Dispatcher

# The first time that a job is tried again, one second after its attempt's end.
BACKOFF_SECONDS = 1.0


class Door:
    """The API's /v1/health, and nothing of it else."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        self.is_open = True


@pytest.fixture(scope="module")
def _door() -> Iterator[Door]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_well = opened.is_open and self.path == "/v1/health"
            self.send_response(200 if is_well else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        opened = Door(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield opened
        server.shutdown()


@pytest.fixture
def door(_door: Door) -> Door:
    _door.is_open = True
    return _door


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def settings(tmp_path: Path, door: Door) -> Settings:
    return Settings(var_path=tmp_path, api_url=door.url)


Make = Callable[..., Dispatcher]


@pytest.fixture
def make(core: Core, cluster: FakeCluster, settings: Settings) -> Make:
    """One more dispatcher, whose settings differ as told."""

    def made(**fields: Any) -> Dispatcher:
        differing = settings.model_copy(update=fields)
        return Dispatcher(differing, core.database, cluster, now=core.clock)

    return made


@pytest.fixture
def dispatcher(make: Make) -> Dispatcher:
    return make()


def _round(core: Core, dispatcher: Dispatcher, *, after_seconds: float = 1.0) -> None:
    """Late enough for another look."""
    core.clock.advance(after_seconds)
    dispatcher.round()


def _start(core: Core, dispatcher: Dispatcher, **fields: Any) -> str:
    """The attempt of a new job, on the cluster."""
    job_id = core.submit(**fields)
    dispatcher.round()
    return f"{job_id}-a1"


def _run(core: Core, dispatcher: Dispatcher, **fields: Any) -> str:
    """The attempt of a new job that has reported."""
    attempt_id = _start(core, dispatcher, **fields)
    core.report(attempt_id, 1)
    return attempt_id


def _reserved(core: Core) -> int:
    """CPUs."""
    with core.database.reading() as session:
        return queue.reserved(session).cpus


def _opens(core: Core, attempt_id: str, token: str) -> bool:
    """Whether the token is the attempt's."""
    try:
        with core.database.reading() as session:
            attempts.authenticate(session, attempt_id, token)
    except Unauthorized:
        return False
    return True


@contextmanager
def _running(
    dispatcher: Dispatcher, *, to_wake_it: Callable[[], object] = lambda: None
) -> Iterator[None]:
    stopping = threading.Event()
    thread = threading.Thread(target=dispatcher.run, args=(stopping,))
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        to_wake_it()
        thread.join()


@contextmanager
def _no_error() -> Iterator[None]:
    """What the dispatcher expects to happen is no error in its log."""
    with capture_logs() as logged:
        yield
    assert [entry for entry in logged if entry["log_level"] == "error"] == []


# Claims and submissions


def test_a_waiting_job_is_claimed_and_given_to_the_cluster(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    attempt_id = _start(core, dispatcher)
    assert cluster.started == [attempt_id]
    assert core.job(job_id_of(attempt_id)).state is JobState.STARTING
    attempt = core.attempt(attempt_id)
    assert (attempt.owner, attempt.submitted_at) == (dispatcher.owner, core.clock.now)


def test_the_cluster_is_told_what_the_attempts_processes_need(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, settings: Settings
) -> None:
    attempt_id = _start(core, dispatcher)
    env = cluster.envs[attempt_id]
    assert env["RESNETD_API_URL"] == settings.api
    assert env["RESNETD_ATTEMPT_ID"] == attempt_id
    assert env["RESNETD_DATA_PATH"] == str(settings.data)
    assert env["RESNETD_WORK_PATH"] == str(settings.work)
    assert _opens(core, attempt_id, env["RESNETD_ATTEMPT_TOKEN"])
    assert cluster.entrypoints == {"python -m workers attempt"}


def test_nothing_is_started_that_does_not_fit(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    first = core.submit(resources=workers(1, cpus_per_worker=3))
    core.submit(resources=workers(2))
    dispatcher.round()
    _round(core, dispatcher)
    assert cluster.started == [f"{first}-a1"]


def test_no_more_is_given_away_than_the_settings_allow(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    core.submit()
    core.submit()
    make(max_cpus=1).round()
    assert len(cluster.started) == 1


def test_what_waits_is_started_once_the_cluster_has_grown(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    job_id = core.submit(resources=workers(8))
    dispatcher.round()
    assert cluster.started == []
    cluster.cpus = 8
    _round(core, dispatcher)
    assert cluster.started == [f"{job_id}-a1"]


def test_a_cluster_without_a_node_says_nothing_about_its_size(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    dispatcher.round()
    cluster.cpus = 0
    _round(core, dispatcher)
    with core.database.reading() as session:
        seen = queue.cluster(session)
    assert seen is not None
    assert seen[0] == Pool(cpus=4, gpus=0)


def test_a_change_in_the_database_costs_the_cluster_no_look(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    dispatcher = make(poll_seconds=60.0)
    dispatcher.round()
    attempt_id = _start(core, dispatcher)
    assert cluster.started == [attempt_id]
    assert cluster.looks == 1


def test_the_next_round_is_due_with_the_next_look(make: Make) -> None:
    assert make(poll_seconds=7.0).round() == 7.0


def test_a_round_is_due_when_a_job_may_be_tried_again(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    dispatcher = make(poll_seconds=60.0)
    attempt_id = _run(core, dispatcher)
    core.finish(attempt_id, Reason.LOST)
    cluster.end(attempt_id, ClusterJobState.FAILED)
    core.clock.advance(0.1)
    assert dispatcher.round() == pytest.approx(0.2), "the ended one is waited for"
    core.clock.advance(0.2)
    not_before = core.job(job_id_of(attempt_id)).not_before
    assert not_before is not None
    left = (not_before - core.clock.now).total_seconds()
    assert dispatcher.round() == pytest.approx(left)


# Submissions that failed half-way


def test_a_submission_that_did_not_arrive_is_repeated_with_the_same_id(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    dispatcher = make(poll_seconds=60.0)
    dispatcher.round()
    job_id = core.submit()
    cluster.is_away = True
    with pytest.raises(ClusterUnavailable):
        dispatcher.round()
    assert core.attempt(f"{job_id}-a1").submitted_at is None
    cluster.is_away = False
    _round(core, dispatcher, after_seconds=60.0)
    assert cluster.submissions == [f"{job_id}-a1"] * 2
    assert cluster.started == [f"{job_id}-a1"]
    assert core.attempt(f"{job_id}-a1").submitted_at == core.clock.now
    assert _opens(core, f"{job_id}-a1", cluster.envs[f"{job_id}-a1"]["RESNETD_ATTEMPT_TOKEN"])


def test_a_submission_whose_answer_was_lost_is_found_and_not_repeated(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    cluster.is_losing_answers = True
    with pytest.raises(ClusterUnavailable):
        _start(core, dispatcher)
    cluster.is_losing_answers = False
    (attempt_id,) = cluster.started
    _round(core, dispatcher)
    assert cluster.submissions == [attempt_id]
    assert core.attempt(attempt_id).submitted_at == core.clock.now
    assert _opens(core, attempt_id, cluster.envs[attempt_id]["RESNETD_ATTEMPT_TOKEN"])


def test_a_job_that_is_cancelled_before_its_submission_is_never_submitted(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    claimed = _claimed_but_not_submitted(core, dispatcher)
    core.cancel(job_id_of(claimed))
    _round(core, dispatcher)
    assert core.job(job_id_of(claimed)).state is JobState.CANCELLED
    _round(core, dispatcher)
    assert cluster.submissions == []
    assert _reserved(core) == 0


def _claimed_but_not_submitted(core: Core, dispatcher: Dispatcher) -> str:
    """As a dispatcher leaves it that dies between the two."""
    dispatcher.round()
    core.submit()
    claimed = dispatcher._claim()
    assert claimed is not None
    return claimed.attempt_id


# Restarts, and several dispatchers


def test_a_restarted_dispatcher_finds_its_attempts_and_submits_none_twice(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, make: Make, settings: Settings
) -> None:
    running = _run(core, dispatcher)
    restarted = make()
    _round(core, restarted, after_seconds=settings.lease_seconds + 1)
    assert core.held(restarted.owner) == [running]
    assert cluster.submissions == [running]
    assert core.job(job_id_of(running)).state is JobState.RUNNING
    core.finish(running)
    cluster.end(running, ClusterJobState.SUCCEEDED)
    _round(core, restarted)
    assert core.held(restarted.owner) == []
    assert core.job(job_id_of(running)).state is JobState.SUCCEEDED


def test_a_restarted_dispatcher_submits_what_was_only_claimed(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, make: Make, settings: Settings
) -> None:
    attempt_id = _claimed_but_not_submitted(core, dispatcher)
    _round(core, make(), after_seconds=settings.lease_seconds + 1)
    assert cluster.started == [attempt_id]
    assert _opens(core, attempt_id, cluster.envs[attempt_id]["RESNETD_ATTEMPT_TOKEN"])


def test_a_dispatcher_leaves_alone_what_a_living_one_holds(
    core: Core, dispatcher: Dispatcher, make: Make, settings: Settings
) -> None:
    running = _run(core, dispatcher)
    _round(core, make(), after_seconds=settings.lease_seconds - 1)
    assert core.held(dispatcher.owner) == [running]


def test_a_dispatcher_that_is_told_to_stop_hands_its_attempts_over_at_once(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    first, second = make(poll_seconds=0.02), make()
    core.submit()
    with _running(first):
        eventually(lambda: cluster.started)
    second.round()
    assert core.held(second.owner) == cluster.started


def test_what_was_taken_over_is_not_ended_by_who_held_it(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    taken, kept = _run(core, dispatcher), _run(core, dispatcher)
    for attempt_id in (taken, kept):
        cluster.end(attempt_id, ClusterJobState.FAILED)
    with core.database.transaction() as session:
        session.execute(
            update(AttemptRow)
            .where(AttemptRow.id == taken)
            .values(lease_expires_at=core.clock.now - timedelta(seconds=1))
        )
    cluster.meanwhile = lambda: core.take_over("two")
    with _no_error():
        _round(core, dispatcher)
    assert core.attempt(taken).state is AttemptState.RUNNING
    assert core.held("two") == [taken]
    assert core.attempt(kept).state is AttemptState.ENDED, "one lost lease costs no other attempt"


def test_several_dispatchers_start_each_job_once_and_no_more_than_fits(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    cluster.cpus = 6
    dispatchers = [make() for _ in range(3)]
    for dispatcher in dispatchers:
        dispatcher.round()
    jobs = [core.submit() for _ in range(8)]
    together = threading.Barrier(len(dispatchers))

    def start(dispatcher: Dispatcher) -> None:
        together.wait()
        dispatcher.round()

    threads = [threading.Thread(target=start, args=(one,)) for one in dispatchers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(cluster.submissions) == [f"{job_id}-a1" for job_id in jobs[:6]]


def test_leases_are_renewed_while_the_cluster_does_not_answer(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    dispatcher = make(poll_seconds=0.02, lease_seconds=0.1)
    attempt_id = _run(core, dispatcher)
    cluster.is_answering.clear()
    core.clock.advance(60.0)
    with _running(dispatcher):
        eventually(lambda: core.attempt(attempt_id).lease_expires_at > core.clock.now)
        cluster.is_answering.set()


# Ends


def test_an_attempt_that_ended_in_order_is_released_and_forgotten_by_the_cluster(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    attempt_id = _run(core, dispatcher)
    core.finish(attempt_id)
    cluster.end(attempt_id, ClusterJobState.SUCCEEDED)
    _round(core, dispatcher)
    assert core.attempt(attempt_id).released_at == core.clock.now
    assert cluster.jobs == {}
    assert core.job(job_id_of(attempt_id)).state is JobState.SUCCEEDED


def test_resources_are_given_away_only_once_the_cluster_is_rid_of_the_job(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    first = _run(core, dispatcher, resources=workers(4))
    second = _start(core, dispatcher)
    core.finish(first)
    _round(core, dispatcher)
    assert _reserved(core) == 4
    assert cluster.started == [first]
    cluster.end(first, ClusterJobState.SUCCEEDED)
    _round(core, dispatcher)
    assert cluster.started == [first, second]


def test_an_attempt_that_takes_too_long_to_tear_down_is_stopped_now_and_then(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, settings: Settings
) -> None:
    attempt_id = _run(core, dispatcher)
    core.finish(attempt_id)
    _round(core, dispatcher, after_seconds=settings.teardown_seconds)
    assert cluster.stops == []
    for _ in range(10):
        _round(core, dispatcher)
    assert cluster.stops == [attempt_id]
    _round(core, dispatcher)
    assert cluster.stops == [attempt_id] * 2


def test_a_job_that_the_cluster_could_not_forget_is_forgotten_when_it_is_back(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt_id = _run(core, dispatcher)
    core.finish(attempt_id)
    cluster.end(attempt_id, ClusterJobState.SUCCEEDED)

    def refuse(_: str) -> bool:
        raise ClusterUnavailable("no answer")

    with monkeypatch.context() as patched, pytest.raises(ClusterUnavailable):
        patched.setattr(cluster, "delete", refuse)
        _round(core, dispatcher)
    _round(core, dispatcher)
    assert cluster.jobs == {}
    assert _reserved(core) == 0


def test_an_attempt_whose_cluster_job_ended_without_a_word_is_tried_again(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    first = _run(core, dispatcher)
    cluster.end(first, ClusterJobState.FAILED, "the driver was killed")
    _round(core, dispatcher)
    job = core.job(job_id_of(first))
    assert (job.state, job.reason) == (JobState.QUEUED, Reason.WORKER_DIED)
    assert job.message is not None
    assert "the driver was killed" in job.message
    assert f"the log of {first}" in job.message
    _round(core, dispatcher, after_seconds=BACKOFF_SECONDS)
    assert cluster.started == [first, f"{job.id}-a2"]
    assert list(cluster.jobs) == [f"{job.id}-a2"]
    assert _reserved(core) == 1


def test_an_attempt_that_the_cluster_has_forgotten_is_lost_and_tried_again(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    attempt_id = _run(core, dispatcher)
    cluster.jobs.clear()
    _round(core, dispatcher)
    job = core.job(job_id_of(attempt_id))
    assert (job.state, job.reason) == (JobState.QUEUED, Reason.LOST)
    _round(core, dispatcher, after_seconds=BACKOFF_SECONDS)
    assert cluster.started == [attempt_id, f"{job.id}-a2"]


def test_an_end_that_the_attempt_tells_while_the_cluster_is_asked_stands(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    attempt_id = _run(core, dispatcher)
    cluster.end(attempt_id, ClusterJobState.SUCCEEDED)
    cluster.meanwhile = lambda: core.finish(attempt_id)
    with _no_error():
        _round(core, dispatcher)
    assert core.job(job_id_of(attempt_id)).state is JobState.SUCCEEDED


# Silence


def test_a_silent_attempt_is_stopped_and_tried_again(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, settings: Settings
) -> None:
    attempt_id = _run(core, dispatcher)
    _round(core, dispatcher, after_seconds=settings.silent_seconds)
    assert core.attempt(attempt_id).state is AttemptState.RUNNING
    _round(core, dispatcher)
    job = core.job(job_id_of(attempt_id))
    assert (job.state, job.reason) == (JobState.QUEUED, Reason.SILENT)
    assert cluster.stops == [attempt_id]
    assert _reserved(core) == 1
    cluster.end(attempt_id, ClusterJobState.STOPPED)
    _round(core, dispatcher, after_seconds=BACKOFF_SECONDS)
    assert cluster.started == [attempt_id, f"{job.id}-a2"]


def test_an_attempt_that_reports_is_not_silent(
    core: Core, dispatcher: Dispatcher, settings: Settings
) -> None:
    attempt_id = _run(core, dispatcher)
    for sequence in (2, 3, 4):
        _round(core, dispatcher, after_seconds=settings.silent_seconds - 1)
        core.report(attempt_id, sequence)
    assert core.attempt(attempt_id).state is AttemptState.RUNNING


def test_nobody_is_silent_as_long_as_the_api_is_away(
    core: Core, dispatcher: Dispatcher, door: Door, settings: Settings
) -> None:
    attempt_id = _run(core, dispatcher)
    door.is_open = False
    for _ in range(5):
        _round(core, dispatcher, after_seconds=settings.silent_seconds)
    door.is_open = True
    _round(core, dispatcher)
    _round(core, dispatcher, after_seconds=settings.silent_seconds)
    assert core.attempt(attempt_id).state is AttemptState.RUNNING, "it may be about to report"
    _round(core, dispatcher)
    assert core.attempt(attempt_id).reason is Reason.SILENT


def test_nobody_is_silent_where_no_api_listens(core: Core, make: Make, settings: Settings) -> None:
    dispatcher = make(api_url="http://127.0.0.1:1")
    attempt_id = _run(core, dispatcher)
    for _ in range(5):
        _round(core, dispatcher, after_seconds=settings.silent_seconds)
    assert core.attempt(attempt_id).state is AttemptState.RUNNING


def test_a_restarted_dispatcher_counts_silence_from_its_own_start(
    core: Core, dispatcher: Dispatcher, make: Make, settings: Settings
) -> None:
    attempt_id = _run(core, dispatcher)
    core.clock.advance(10 * settings.silent_seconds)
    restarted = make()
    restarted.round()
    _round(core, restarted, after_seconds=settings.silent_seconds)
    assert core.attempt(attempt_id).state is AttemptState.RUNNING
    _round(core, restarted)
    assert core.attempt(attempt_id).reason is Reason.SILENT


def test_an_attempt_that_never_begins_is_stopped_and_tried_again(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, settings: Settings
) -> None:
    attempt_id = _start(core, dispatcher)
    _round(core, dispatcher, after_seconds=settings.start_timeout_seconds)
    assert core.attempt(attempt_id).state is AttemptState.STARTING
    _round(core, dispatcher)
    job = core.job(job_id_of(attempt_id))
    assert (job.state, job.reason) == (JobState.QUEUED, Reason.START_TIMEOUT)
    assert f"the log of {attempt_id}" in str(job.message)
    assert cluster.stops == [attempt_id]


def test_an_attempt_cannot_begin_as_long_as_the_api_is_away(
    core: Core, dispatcher: Dispatcher, door: Door, settings: Settings
) -> None:
    attempt_id = _start(core, dispatcher)
    door.is_open = False
    for _ in range(3):
        _round(core, dispatcher, after_seconds=settings.start_timeout_seconds)
    assert core.attempt(attempt_id).state is AttemptState.STARTING


# Cancel, and the time limit


def test_a_job_that_is_cancelled_while_it_starts_is_stopped_at_once(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    attempt_id = _start(core, dispatcher)
    core.cancel(job_id_of(attempt_id))
    _round(core, dispatcher)
    assert core.job(job_id_of(attempt_id)).state is JobState.CANCELLED
    assert cluster.stops == [attempt_id]
    assert _reserved(core) == 1
    cluster.end(attempt_id, ClusterJobState.STOPPED)
    _round(core, dispatcher)
    assert _reserved(core) == 0
    assert cluster.started == [attempt_id]


def test_a_running_job_that_is_cancelled_has_time_to_stop_by_itself(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, settings: Settings
) -> None:
    attempt_id = _run(core, dispatcher)
    core.cancel(job_id_of(attempt_id))
    _round(core, dispatcher, after_seconds=settings.cancel_grace_seconds)
    assert core.job(job_id_of(attempt_id)).state is JobState.RUNNING
    assert cluster.stops == []
    _round(core, dispatcher)
    assert core.job(job_id_of(attempt_id)).state is JobState.CANCELLED
    assert cluster.stops == [attempt_id]


def test_a_cancelled_job_that_stopped_by_itself_is_not_stopped_again(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    attempt_id = _run(core, dispatcher)
    core.cancel(job_id_of(attempt_id))
    core.finish(attempt_id, Reason.CANCELLED)
    _round(core, dispatcher)
    cluster.end(attempt_id, ClusterJobState.SUCCEEDED)
    _round(core, dispatcher)
    assert cluster.stops == []
    assert _reserved(core) == 0


def test_a_job_that_does_not_stop_at_its_time_limit_is_stopped(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, settings: Settings
) -> None:
    attempt_id = _run(core, dispatcher, time_limit_minutes=1)
    core.clock.advance(60.0 + settings.cancel_grace_seconds)
    core.report(attempt_id, 2)
    dispatcher.round()
    assert core.attempt(attempt_id).state is AttemptState.RUNNING
    _round(core, dispatcher)
    job = core.job(job_id_of(attempt_id))
    assert (job.state, job.reason) == (JobState.FAILED, Reason.TIME_LIMIT)
    assert cluster.stops == [attempt_id]


@pytest.mark.parametrize(
    ("state", "is_preempted"), [(JobState.PAUSED, False), (JobState.QUEUED, True)]
)
def test_a_job_that_does_not_make_way_in_time_is_stopped_and_goes_on_later(
    core: Core,
    cluster: FakeCluster,
    dispatcher: Dispatcher,
    settings: Settings,
    state: JobState,
    is_preempted: bool,
) -> None:
    attempt_id = _run(core, dispatcher, preemptible=True, priority=1)
    if is_preempted:
        core.submit(priority=90, resources={"num_workers": 4})
        _round(core, dispatcher)
    else:
        core.steer("pause", job_id_of(attempt_id))
    _round(core, dispatcher, after_seconds=settings.cancel_grace_seconds)
    assert core.job(job_id_of(attempt_id)).state is JobState.RUNNING
    _round(core, dispatcher)
    job = core.job(job_id_of(attempt_id))
    assert (job.state, job.other_restarts, job.not_before) == (state, 0, None)
    assert cluster.stops == [attempt_id]


def test_a_killed_job_is_stopped_without_patience(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher
) -> None:
    attempt_id = _run(core, dispatcher)
    core.steer("kill", job_id_of(attempt_id))
    _round(core, dispatcher)
    assert cluster.stops == [attempt_id]


# What is away, and what is wrong


def test_nothing_is_ended_while_the_cluster_is_away(
    core: Core, cluster: FakeCluster, dispatcher: Dispatcher, settings: Settings
) -> None:
    attempt_id = _run(core, dispatcher)
    before = core.job(job_id_of(attempt_id)).events
    cluster.is_away = True
    for _ in range(3):
        with pytest.raises(ClusterUnavailable):
            _round(core, dispatcher, after_seconds=settings.silent_seconds)
    cluster.is_away = False
    core.report(attempt_id, 2)
    _round(core, dispatcher)
    assert core.job(job_id_of(attempt_id)).events == before
    assert cluster.submissions == [attempt_id]


def test_a_dispatcher_waits_for_a_cluster_that_is_away(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    cluster.is_away = True
    job_id = core.submit()
    with _running(make(poll_seconds=0.02)):
        eventually(lambda: cluster.looks > 2)
        assert core.job(job_id).state is JobState.QUEUED
        cluster.is_away = False
        eventually(lambda: core.job(job_id).state is JobState.STARTING)


def test_silence_counts_from_when_the_cluster_is_back(
    core: Core, cluster: FakeCluster, make: Make, settings: Settings
) -> None:
    """What took the cluster away may have kept reports away as well."""
    dispatcher = make(poll_seconds=0.02)
    attempt_id = _run(core, dispatcher)
    cluster.is_away = True
    with _running(dispatcher):
        core.clock.advance(10 * settings.silent_seconds)
        looks = cluster.looks
        eventually(lambda: cluster.looks > looks + 1)
    cluster.is_away = False
    _round(core, dispatcher)
    assert core.attempt(attempt_id).state is AttemptState.RUNNING


def test_a_new_job_ends_the_wait_for_the_next_look(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    with _running(make(poll_seconds=60.0), to_wake_it=core.submit):
        eventually(lambda: cluster.looks == 1)
        job_id = core.submit()
        eventually(lambda: cluster.started == [f"{job_id}-a1"])


def test_a_row_that_cannot_be_read_stops_no_other_job(
    core: Core, cluster: FakeCluster, make: Make
) -> None:
    dispatcher = make(poll_seconds=0.02)
    unreadable = _run(core, dispatcher)
    with core.database.transaction() as session:
        session.execute(
            update(JobRow)
            .where(JobRow.id == job_id_of(unreadable))
            .values(spec={"from": "another version"})
        )
    second, third = _run(core, dispatcher), core.submit()
    cluster.end(second, ClusterJobState.FAILED)
    with _running(dispatcher):
        eventually(lambda: core.attempt(second).state is AttemptState.ENDED)
        eventually(lambda: f"{third}-a1" in cluster.started)
