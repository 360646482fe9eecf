"""`make bench-control`: the API and the queue on SQLite and on PostgreSQL with durable commits.

One API process and one client on this machine. PostgreSQL runs with its own defaults: fsync on.
Peers on the same server and machine: benchmarks.control_peers.
"""

import argparse
import logging
import multiprocessing
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import structlog
from sqlalchemy import insert, select, update

from benchmarks import control_peers
from benchmarks.results_table import Row, publish
from service import ids
from service.execution import runners
from service.jobs import lifecycle
from service.resources import ResourceBundle
from service.scheduling import admission, cluster_state
from service.settings import Settings
from service.specs.protocol import MAX_POINTS, MetricPoint, Report
from service.states import AttemptState, JobState
from service.storage import schema
from service.storage.database import Database
from service.storage.tables import AttemptRow, JobRow
from tests.support.cluster import FakeCluster
from tests.support.postgres import postgres_server
from workers.dispatcher.dispatcher import Dispatcher

TOKEN = "benchmark-token-of-nobody"  # noqa: S105 - opens this run's API only
SPEC = {"depth": 8, "shortcut": "A", "dataset": "digits"}
POSTS = 300
LISTS = 200
CLAIMS = 500
# Reports of as many points as one may have, from so many attempts at once.
ATTEMPTS, REPORTS = 4, 10
FINISHED, WAITING = 100_000, 10_000


PARTS = ("post", "claimed", "points", "claims", "lists", "peers")
DATABASES = ("sqlite", "postgres")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-control", description=__doc__)
    parser.add_argument("--part", choices=PARTS, action="append", help="only that; repeatable")
    parser.add_argument("--database", choices=DATABASES, action="append", help="only on that one")
    chosen = parser.parse_args()
    parts = frozenset(chosen.part or PARTS)
    databases = chosen.database or DATABASES
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        processors=[_note_claims],
    )
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="rb") as name:
        folder = Path(name)
        if "sqlite" in databases:
            rows += _measure("sqlite", f"sqlite:///{folder / 'bench.db'}", folder, parts)
        if "postgres" in databases:
            with postgres_server(is_durable=True) as server:
                rows += _measure("postgres", server.new_database(), folder, parts)
                if "peers" in parts:
                    rows += control_peers.rows(server, rows)
    print(f"load of the machine meanwhile: {os.getloadavg()[0]:.1f}")
    # A part alone must not take the place of the whole.
    publish("control" if parts == {*PARTS} else "control-part", rows)
    return 0


def _measure(kind: str, url: str, folder: Path, parts: frozenset[str]) -> list[Row]:
    database = Database(url)
    schema.upgrade(database)
    with database.transaction() as session:
        cluster_state.record_cluster(session, ResourceBundle(cpus=10**6, gpus=0), now=_now())
    rows: list[Row] = []
    with _api(url, folder / kind) as api:
        posts = [_timed(lambda: api.post("/v1/jobs", SPEC)) for _ in range(POSTS)]
        if "post" in parts:
            rows += _percentiles(f"POST {{}} ms, {kind}", posts)
        _clear_away(database)
        if "claimed" in parts:
            rows += _percentiles(
                f"submit to claimed {{}} ms, {kind}", _submit_to_claimed(database, api)
            )
        _clear_away(database)
        if "points" in parts:
            rate, stream = _points_and_stream(database, api)
            rows.append(Row(f"metric points/s, {kind}", "1/s", rate, is_more_better=True))
            what = f"point to stream p99 ms, {kind}"
            rows.append(Row(what, "ms", _percentile(stream, 99)))
        if "claims" in parts:
            for number in (1, 4):
                rate = _claims_per_second(database, url, dispatchers=number)
                what = f"claims/s with {number} dispatchers, {kind}"
                rows.append(Row(what, "1/s", rate, is_more_better=True))
        if "lists" in parts:
            rows += _lists(database, api, kind)
        memory = psutil.Process(api.pid).memory_info().rss / 2**20
        rows.append(Row(f"memory of the API, {kind}", "MiB", memory))
    database.close()
    return rows


def _lists(database: Database, api: "_Api", kind: str) -> list[Row]:
    _fill(database)
    lists = [_timed(lambda: api.get("/v1/jobs?limit=50")) for _ in range(LISTS)]
    lists += [_timed(lambda: api.get("/v1/jobs?state=queued")) for _ in range(LISTS)]
    queues = [_timed(lambda: api.get("/v1/queue")) for _ in range(30)]
    return [
        Row(f"list p99 ms at 100k jobs, {kind}", "ms", _percentile(lists, 99)),
        Row(f"queue with reasons p99 ms, 10k waiting, {kind}", "ms", _percentile(queues, 99)),
    ]


def _percentiles(what: str, seconds: list[float]) -> list[Row]:
    return [
        Row(what.format(f"p{percent}"), "ms", _percentile(seconds, percent)) for percent in (50, 99)
    ]


@dataclass(frozen=True)
class _Api:
    http: httpx.Client
    pid: int

    def post(self, path: str, body: Any, *, token: str = TOKEN) -> Any:
        answer = self.http.post(path, json=body, headers={"Authorization": f"Bearer {token}"})
        answer.raise_for_status()
        return answer.json()

    def get(self, path: str) -> Any:
        answer = self.http.get(path, headers={"Authorization": f"Bearer {TOKEN}"})
        answer.raise_for_status()
        return answer.json()


@contextmanager
def _api(url: str, folder: Path) -> Iterator[_Api]:
    """A process of its own, as it is in production."""
    folder.mkdir()
    (folder / "token").write_text(TOKEN)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"VAR_PATH": folder, "DATABASE_URL": url, "API_PORT": port, "LOG_FORMAT": "json"}
    process = subprocess.Popen(
        [sys.executable, "-m", "api"],
        env=os.environ | {f"RESNETD_{name}": str(value) for name, value in settings.items()},
        stdout=subprocess.DEVNULL,
    )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as http:
        try:
            _until(lambda: _is_up(http))
            yield _Api(http, process.pid)
        finally:
            process.terminate()
            process.wait()


def _is_up(http: httpx.Client) -> bool:
    try:
        return http.get("/v1/health").is_success
    except httpx.TransportError:
        return False


_claimed_at: list[float] = []


def _note_claims(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    """The dispatcher says so as soon as a claim is committed."""
    if event["event"] == "job claimed":
        _claimed_at.append(time.monotonic())
    raise structlog.DropEvent


def _submit_to_claimed(database: Database, api: _Api) -> list[float]:
    """From before the POST, on an idle service."""
    cluster, stopping = FakeCluster(cpus=10**6), threading.Event()
    # Attempts that nobody reports for must live until the end.
    settings = Settings(start_timeout_seconds=1e6, heartbeat_timeout_seconds=1e6, warm_runners=0)
    dispatcher = Dispatcher(settings, database, cluster, now=_now)
    thread = threading.Thread(target=dispatcher.run, args=(stopping,))
    thread.start()
    took = []
    try:
        _until(lambda: cluster.list_requests > 0)
        for _ in range(100):
            began, before = time.monotonic(), len(_claimed_at)
            api.post("/v1/jobs", SPEC)
            _until(lambda before=before: len(_claimed_at) > before)  # type: ignore[misc]
            took.append(_claimed_at[-1] - began)
    finally:
        stopping.set()
        thread.join()
    return took


def _points_and_stream(database: Database, api: _Api) -> tuple[float, list[float]]:
    """Points stored a second by some attempts at once, and seconds from a report to its stream."""
    attempts = [_begin_attempt(database, api) for _ in range(ATTEMPTS)]
    bodies = [_points_of(number) for number in range(1, REPORTS + 1)]
    threads = [
        threading.Thread(target=_send_all, args=(api, attempt, bodies)) for attempt in attempts
    ]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = ATTEMPTS * REPORTS * MAX_POINTS / (time.monotonic() - began)
    return rate, _stream_seconds(api, attempts[0])


@dataclass(frozen=True)
class _Attempt:
    job_id: str
    path: str
    token: str


def _begin_attempt(database: Database, api: _Api) -> _Attempt:
    job_id = api.post("/v1/jobs", SPEC)["id"]
    with database.transaction() as session:
        claimed = admission.claim_next_job(
            session, owner="bench", now=_now(), lease_seconds=1e6, limits={}
        )
        assert claimed is not None
        runners.take_startable(session, ResourceBundle(cpus=10_000, gpus=0), now=_now())
        response = runners.next_attempt(session, claimed.runner_id, now=_now())
    assert response is not None
    assert response.assignment is not None
    path = f"/v1/attempts/{claimed.attempt_id}/reports"
    return _Attempt(job_id=job_id, path=path, token=response.assignment.token)


def _points_of(number: int) -> str:
    """A full report, written as workers write it."""
    points = [
        MetricPoint(series=f"s{at % 5}", iteration=number * MAX_POINTS + at, value=0.5)
        for at in range(MAX_POINTS)
    ]
    return Report(sequence=number, metrics=points).model_dump_json()


def _send_all(api: _Api, attempt: _Attempt, bodies: list[str]) -> None:
    """On a connection of its own, one report after the other."""
    headers = {"Authorization": f"Bearer {attempt.token}", "Content-Type": "application/json"}
    with httpx.Client(base_url=api.http.base_url, timeout=60, trust_env=False) as http:
        for body in bodies:
            http.post(attempt.path, content=body, headers=headers).raise_for_status()


def _stream_seconds(api: _Api, attempt: _Attempt) -> list[float]:
    heard: list[float] = []
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"}
    took = []
    with httpx.Client(base_url=api.http.base_url, timeout=60, trust_env=False) as other:
        reader = threading.Thread(target=_listen, args=(other, attempt.job_id, headers, heard))
        reader.start()
        for number in range(1, 101):
            told = len(heard)
            began = time.monotonic()
            progress = {"iteration": number, "iterations": 600, "images_per_second": 1.0}
            report = {"sequence": REPORTS + number, "progress": progress}
            api.post(attempt.path, report, token=attempt.token)
            _until(lambda told=told: len(heard) > told)  # type: ignore[misc]
            took.append(heard[-1] - began)
        api.post(f"/v1/jobs/{attempt.job_id}/kill", None)
        reader.join()
    return took[1:]  # the first may have waited for the stream to open


def _listen(http: httpx.Client, job_id: str, headers: dict[str, str], heard: list[float]) -> None:
    with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
        for line in answer.iter_lines():
            if line == "event: progress":
                heard.append(time.monotonic())  # noqa: PERF401 - each as it comes


def _claims_per_second(database: Database, url: str, *, dispatchers: int) -> float:
    _insert(database, CLAIMS, JobState.QUEUED)
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(dispatchers + 1)
    processes = [
        context.Process(target=_claim_all, args=(url, f"d{number}", together))
        for number in range(dispatchers)
    ]
    for process in processes:
        process.start()
    together.wait()
    began = time.monotonic()
    for process in processes:
        process.join()
    rate = CLAIMS / (time.monotonic() - began)
    _clear_away(database)
    return rate


def _clear_away(database: Database) -> None:
    """Nothing waits or runs any more: no cluster runs a thousand jobs."""
    ended = {"state": AttemptState.ENDED, "ended_at": _now(), "released_at": _now()}
    with database.transaction() as session:
        session.execute(update(AttemptRow).values(**ended))
        session.execute(
            update(JobRow)
            .where(JobRow.state.in_((JobState.QUEUED, JobState.STARTING)))
            .values(state=JobState.CANCELLED, finished_at=_now())
        )


def _claim_all(url: str, owner: str, together: Any) -> None:
    database = Database(url)
    database.check()
    together.wait()
    while True:
        with database.transaction() as session:
            claimed = admission.claim_next_job(
                session, owner=owner, now=_now(), lease_seconds=1e6, limits={}
            )
        if claimed is None:
            break
    database.close()


def _fill(database: Database) -> None:
    _insert(database, FINISHED, JobState.SUCCEEDED)
    _insert(database, WAITING, JobState.QUEUED)


def _insert(database: Database, number: int, state: JobState) -> None:
    """Jobs as they are submitted, without asking the API for each."""
    with database.reading() as session:
        known = session.scalar(select(JobRow).limit(1))
        assert known is not None
        fields = {column.key: getattr(known, column.key) for column in JobRow.__table__.columns}
    start = _now()
    rows = []
    for offset in range(number):
        at = start + timedelta(microseconds=offset)
        mine = {
            "id": ids.new_id(at),
            "state": state,
            "created_at": at,
            "finished_at": at if state.is_final else None,
            "queue_sort_key": lifecycle.queue_sort_key(created_at=at, priority=50),
            "idempotency_key": None,
            "attempts": 0,
        }
        rows.append(fields | mine)
    with database.transaction() as session:
        for first in range(0, number, 1_000):
            session.execute(insert(JobRow), rows[first : first + 1_000])


def _count(database: Database, state: JobState) -> int:
    with database.reading() as session:
        return len(session.scalars(select(JobRow.id).where(JobRow.state == state)).all())


def _timed(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def _until(condition: Callable[[], bool], *, within_seconds: float = 60.0) -> None:
    deadline = time.monotonic() + within_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come to pass")
        time.sleep(0.0005)


def _percentile(seconds: list[float], percent: int) -> float:
    """In milliseconds."""
    return statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1] * 1000


def _now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    sys.exit(main())
