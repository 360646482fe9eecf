"""Two API processes on one PostgreSQL database, restarted one after the other under load."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

import resnetd
from api.__main__ import listen
from api.app import create_app
from api.graceful_server import GracefulServer
from service.jobs import metrics
from service.settings import Settings
from service.specs.protocol import NextAttemptRequest, Report
from service.states import Reason
from service.storage.database import Database
from service.storage.tables import JobRow
from tests.support.api import TOKEN
from tests.support.balancer import Balancer, balancing
from tests.support.core import Core, job_id_of, make_point, written
from tests.support.fake_api import eventually
from workers.reporting.api_client import AttemptClient, RunnerClient
from workers.reporting.retry import retry_until

DRAIN_SECONDS = 0.3
# As long as a stop would take that waits for the stream.
GRACE_SECONDS = 20


class Replica:
    """An API process, as far as a thread can be one: it shares nothing but the imports."""

    def __init__(self, settings: Settings, core: Core) -> None:
        self._app = create_app(settings, now=core.clock)
        self._stack = ExitStack()
        self.port = 0

    def start(self) -> None:
        listener = self._stack.enter_context(listen("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._server = GracefulServer(
            self._app, drain_seconds=DRAIN_SECONDS, grace_seconds=GRACE_SECONDS, ws="none"
        )
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, daemon=True
        )
        self._thread.start()
        eventually(lambda: self._server.started)

    def stop(self) -> float:
        """Returns how long it took."""
        began = time.monotonic()
        self._server.should_exit = True
        self._thread.join()
        self._stack.close()
        return time.monotonic() - began


class Load:
    """Calls that repeat in threads until the load is over. `errors`: of any of them."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.counts: Counter[str] = Counter()
        self._is_over = threading.Event()
        self._threads: list[threading.Thread] = []

    def repeat(self, name: str, call: Callable[[], object]) -> None:
        def run() -> None:
            while not self._is_over.is_set():
                call()
                self.counts[name] += 1

        self._threads.append(self.run(name, run))

    def run(self, name: str, function: Callable[[], object]) -> threading.Thread:
        def catch() -> None:
            try:
                function()
            except Exception as error:  # noqa: BLE001
                self.errors.append(f"{name}: {error!r}")

        thread = threading.Thread(target=catch, daemon=True)
        thread.start()
        return thread

    def wait_for_more(self) -> None:
        """Until each has made further calls."""
        before = dict(self.counts)
        eventually(
            lambda: self.errors or all(self.counts[name] >= before[name] + 2 for name in before),
            within_seconds=60.0,
        )

    def end(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(20.0)
            assert not thread.is_alive()


@pytest.fixture
def database_url(request: pytest.FixtureRequest, migrated_postgres: str) -> Iterator[str]:
    server = request.getfixturevalue("postgres")
    url: str = server.new_database(copied_from=migrated_postgres)
    yield url
    server.drop(url)


@pytest.fixture
def database(own_database: Database) -> Database:
    return own_database


@contextmanager
def _two_replicas(core: Core, url: str, path: Path) -> Iterator[tuple[list[Replica], Balancer]]:
    (path / "token").write_text(TOKEN)
    settings = Settings(
        var_dir=path, database_url=url, requests_per_second=0, anonymous_requests_per_second=0
    )
    replicas = [Replica(settings, core) for _ in range(2)]
    for replica in replicas:
        replica.start()
    with balancing([replica.port for replica in replicas]) as balancer:
        try:
            yield replicas, balancer
        finally:
            for replica in replicas:
                replica.stop()


# FastAPI builds routes at their first request; in two threads its filter of warnings has no effect.
@pytest.mark.filterwarnings("ignore::pydantic.warnings.UnsupportedFieldAttributeWarning")
@pytest.mark.db
def test_a_rolling_restart_loses_and_doubles_nothing(
    core: Core, database_url: str, tmp_path: Path
) -> None:
    claimed = core.run()
    warm = core.start_warm_runner()
    submitted: list[str] = []
    watched: list[resnetd.Event] = []
    claims: list[str] = []
    load = Load()
    with (
        _two_replicas(core, database_url, tmp_path) as (replicas, balancer),
        resnetd.Client(balancer.url, TOKEN) as client,
        AttemptClient(
            api_url=balancer.url, attempt_id=claimed.attempt_id, token=claimed.secret
        ) as training,
        RunnerClient(api_url=balancer.url, runner_id=warm.id, token=warm.secret) as runner,
    ):
        _share_what_one_has_stored(*replicas)
        sequence = 1

        def report() -> None:
            nonlocal sequence
            sequence += 1
            points = [make_point("train/loss", sequence, 1.0)]
            body = Report(sequence=sequence, metrics=points)
            retry_until(lambda: training.report(body), deadline_seconds=20.0)

        def poll() -> None:
            request = NextAttemptRequest(trained_attempt_id=None, wait_seconds=1.0)
            retry_until(lambda: runner.next_attempt(request), deadline_seconds=20.0)

        def claim(owner: str) -> None:
            claims.extend(claim.attempt_id for claim in core.claim_jobs(owner))

        def watch() -> None:
            watched.extend(client.jobs.watch(job_id_of(claimed), poll_seconds=0.05))

        load.repeat("submit", lambda: submitted.append(client.submit(written()).id))
        load.repeat("list", lambda: list(client.jobs.list(limit=5)))
        load.repeat("report", report)
        load.repeat("poll", poll)
        load.repeat("claim", lambda: claim("one"))
        load.repeat("claim of another dispatcher", lambda: claim("two"))
        watcher = load.run("watch", watch)
        for replica in replicas:
            load.wait_for_more()
            assert replica.stop() < DRAIN_SECONDS + GRACE_SECONDS
            load.wait_for_more()
            replica.start()
            eventually(lambda: not balancer.unhealthy)
        load.end()
        core.end(claimed, Reason.CANCELLED)
        watcher.join(20.0)

    assert load.errors == []
    assert balancer.num_refused == 0
    with core.database.reading() as session:
        stored = set(session.scalars(select(JobRow.id).where(JobRow.name != "shared")))
        points = metrics.read_series(session, job_id_of(claimed))["train/loss"]
    assert sorted([*submitted, job_id_of(claimed)]) == sorted(stored)
    assert len(claims) == len(set(claims)) > 0
    assert points.iterations == list(range(2, sequence + 1))
    numbers = [event.number for event in watched if event.number is not None]
    assert numbers == list(range(1, len(numbers) + 1))
    assert watched[-1].is_final


def _share_what_one_has_stored(first: Replica, second: Replica) -> None:
    """Sign-ins and idempotency keys."""

    def call(replica: Replica, method: str, path: str, **request: Any) -> httpx.Response:
        headers = {"X-Requested-With": "test"} | request.pop("headers", {})
        url = f"http://127.0.0.1:{replica.port}{path}"
        return httpx.request(method, url, headers=headers, trust_env=False, **request)

    signed_in = call(first, "POST", "/v1/session", json={"token": TOKEN})
    cookie = {"Cookie": signed_in.headers["Set-Cookie"].partition(";")[0]}
    job = {"json": written(name="shared"), "headers": cookie | {"Idempotency-Key": "once"}}
    ids = [call(replica, "POST", "/v1/jobs", **job).json()["id"] for replica in (first, second)]
    assert ids[0] == ids[1]
    assert call(second, "DELETE", "/v1/session", headers=cookie).is_success
    assert call(first, "GET", "/v1/jobs", headers=cookie).status_code == 401
