"""`make bench-control`: latencies and rates of the API and the queue, on SQLite and PostgreSQL.

One API process and one client on this machine. PostgreSQL has its default settings, with fsync.
Peers on the same PostgreSQL: procrastinate and DBOS; and Ray's Jobs API (benchmarks.control_peers).
"""

import argparse
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import structlog
from sqlalchemy import insert, select, update

from benchmarks import control_peers
from benchmarks.api_process import TOKEN, ApiProcess, running_api, wait_until
from benchmarks.results_table import Result, write_results
from service import ids
from service.execution import runners
from service.jobs import queue_order
from service.resources import ResourceBundle
from service.scheduling import admission, cluster_state
from service.scheduling.leases import Claim
from service.settings import Settings
from service.specs.protocol import MAX_POINTS, MetricPoint, Report
from service.states import AttemptState, JobState
from service.storage import schema
from service.storage.database import Database
from service.storage.tables import AttemptRow, JobRow
from service.text import count_of
from tests.support.cluster import FakeCluster
from tests.support.core import NO_DATA
from tests.support.postgres import postgres_server
from workers.dispatcher.dispatcher import Dispatcher

SPEC = {"depth": 8, "shortcut": "A", "dataset": "digits"}
POSTS = 300
BATCH = 1_000
LISTS = 200
CLAIMS = 2_000
# Attempts that report at the same time, and reports of each with the maximum number of points.
ATTEMPTS, REPORTS = 4, 10
FINISHED_JOBS, QUEUED_JOBS = 100_000, 10_000

PARTS = ("post", "claimed", "points", "claims", "lists", "peers")
DATABASES = ("sqlite", "postgres")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-control", description=__doc__)
    parser.add_argument(
        "--part", choices=PARTS, action="append", help="measure this part only; repeatable"
    )
    parser.add_argument(
        "--database",
        choices=DATABASES,
        action="append",
        help="measure this database only; repeatable",
    )
    options = parser.parse_args()
    parts = frozenset(options.part or PARTS)
    databases = options.database or DATABASES
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        processors=[_record_claim],
    )
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="rb") as temporary:
        folder = Path(temporary)
        if "sqlite" in databases:
            results += _measure("sqlite", f"sqlite:///{folder / 'bench.db'}", folder, parts)
        if "postgres" in databases:
            with postgres_server(is_durable=True) as server:
                results += _measure("postgres", server.new_database(), folder, parts)
                if "peers" in parts:
                    results += control_peers.measure_peers(server, results)
    print(f"load average of the machine: {os.getloadavg()[0]:.1f}")
    # Results of some parts must not replace those of all.
    write_results("control" if parts == {*PARTS} else "control-part", results)
    return 0


def _measure(kind: str, url: str, folder: Path, parts: frozenset[str]) -> list[Result]:
    """All parts on one database; `kind` names it."""
    database = Database(url)
    schema.upgrade(database)
    with database.transaction() as session:
        cluster_state.record_cluster(session, ResourceBundle(cpus=10**6, gpus=0), now=_now())
    results: list[Result] = []
    with running_api(url, folder / kind) as api:
        posts = [_time(lambda: api.post("/v1/jobs", SPEC)) for _ in range(POSTS)]
        if "post" in parts:
            results += _percentiles(f"POST {{}} ms, {kind}", posts)
            body = {"jobs": [{**SPEC, "seed": seed} for seed in range(BATCH)]}
            batch = min(_time(lambda: api.post("/v1/jobs:batch", body)) for _ in range(3))
            results.append(Result(f"POST of a batch of {BATCH:,} s, {kind}", "s", batch))
        _end_all_jobs(database)
        if "claimed" in parts:
            results += _percentiles(
                f"submit to claimed {{}} ms, {kind}", _measure_claim_latency(database, api)
            )
        _end_all_jobs(database)
        if "points" in parts:
            rate, stream = _measure_reports(database, api)
            results += [
                Result(f"metric points/s, {kind}", "1/s", rate, is_higher_better=True),
                Result(f"point to stream p99 ms, {kind}", "ms", _percentile(stream, 99)),
            ]
        if "claims" in parts:
            for number in (1, 4):
                rate = _measure_claim_rate(database, url, dispatchers=number)
                name = f"claims/s with {count_of(number, 'dispatcher')}, {kind}"
                results.append(Result(name, "1/s", rate, is_higher_better=True))
        if "lists" in parts:
            results += _measure_lists(database, api, kind)
        memory = psutil.Process(api.pid).memory_info().rss / 2**20
        results.append(Result(f"memory of the API, {kind}", "MiB", memory))
    database.close()
    return results


def _measure_lists(database: Database, api: ApiProcess, kind: str) -> list[Result]:
    _insert_jobs(database, FINISHED_JOBS, JobState.SUCCEEDED)
    _insert_jobs(database, QUEUED_JOBS, JobState.QUEUED)
    lists = [_time(lambda: api.get("/v1/jobs?limit=50")) for _ in range(LISTS)]
    lists += [_time(lambda: api.get("/v1/jobs?state=queued")) for _ in range(LISTS)]
    queues = [_time(lambda: api.get("/v1/queue")) for _ in range(30)]
    return [
        Result(f"list p99 ms at 100k jobs, {kind}", "ms", _percentile(lists, 99)),
        Result(f"queue with reasons p99 ms, 10k waiting, {kind}", "ms", _percentile(queues, 99)),
    ]


def _percentiles(name: str, seconds: list[float]) -> list[Result]:
    return [
        Result(name.format(f"p{percent}"), "ms", _percentile(seconds, percent))
        for percent in (50, 99)
    ]


_claim_times: list[float] = []


def _record_claim(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    """The dispatcher logs each claim as soon as it is committed."""
    if event["event"] == "job claimed":
        _claim_times.append(time.monotonic())
    raise structlog.DropEvent


def _measure_claim_latency(database: Database, api: ApiProcess) -> list[float]:
    """Seconds from the POST to the claim of each job, on an idle service."""
    cluster, stopping = FakeCluster(cpus=10**6), threading.Event()
    # No process reports for these attempts, and they must not time out.
    settings = Settings(start_timeout_seconds=1e6, heartbeat_timeout_seconds=1e6, warm_runners=0)
    dispatcher = Dispatcher(settings, database, cluster, now=_now)
    thread = threading.Thread(target=dispatcher.run, args=(stopping,))
    thread.start()
    latencies = []
    try:
        wait_until(lambda: cluster.list_requests > 0)
        for _ in range(100):
            started, claims = time.monotonic(), len(_claim_times)
            api.post("/v1/jobs", SPEC)
            wait_until(lambda claims=claims: len(_claim_times) > claims)  # type: ignore[misc]
            latencies.append(_claim_times[-1] - started)
    finally:
        stopping.set()
        thread.join()
    return latencies


def _measure_reports(database: Database, api: ApiProcess) -> tuple[float, list[float]]:
    """Points stored per second from concurrent attempts; seconds from a report to the stream."""
    attempts = [_begin_attempt(database, api) for _ in range(ATTEMPTS)]
    reports = [_make_report(number) for number in range(1, REPORTS + 1)]
    threads = [
        threading.Thread(target=_send_reports, args=(api, attempt, reports)) for attempt in attempts
    ]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = ATTEMPTS * REPORTS * MAX_POINTS / (time.monotonic() - started)
    return rate, _measure_stream(api, attempts[0])


@dataclass(frozen=True)
class _Attempt:
    job_id: str
    path: str
    token: str


def _begin_attempt(database: Database, api: ApiProcess) -> _Attempt:
    job_id = api.post("/v1/jobs", SPEC)["id"]
    (claimed,) = _claim(database, "bench")
    with database.transaction() as session:
        runners.take_startable(session, ResourceBundle(cpus=10_000, gpus=0), now=_now())
        response = runners.next_attempt(session, claimed.runner_id, now=_now())
    assert response is not None
    assert response.assignment is not None
    path = f"/v1/attempts/{claimed.attempt_id}/reports"
    return _Attempt(job_id=job_id, path=path, token=response.assignment.token)


def _make_report(number: int) -> str:
    """A report with the maximum number of points, serialized as workers do."""
    points = [
        MetricPoint(
            series=f"s{index % 5}",
            iteration=number * MAX_POINTS + index,
            value=0.5,
            seconds=0.0,
            at=datetime.now(UTC),
        )
        for index in range(MAX_POINTS)
    ]
    return Report(sequence=number, metrics=points).model_dump_json()


def _send_reports(api: ApiProcess, attempt: _Attempt, reports: list[str]) -> None:
    """One after the other, on one connection."""
    headers = {"Authorization": f"Bearer {attempt.token}", "Content-Type": "application/json"}
    with httpx.Client(base_url=api.http.base_url, timeout=60, trust_env=False) as http:
        for report in reports:
            http.post(attempt.path, content=report, headers=headers).raise_for_status()


def _measure_stream(api: ApiProcess, attempt: _Attempt) -> list[float]:
    """Seconds from each POST of a report to its event in the job's stream."""
    event_times: list[float] = []
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"}
    latencies = []
    with httpx.Client(base_url=api.http.base_url, timeout=60, trust_env=False) as http:
        reader = threading.Thread(
            target=_read_stream, args=(http, attempt.job_id, headers, event_times)
        )
        reader.start()
        for number in range(1, 101):
            num_events = len(event_times)
            started = time.monotonic()
            progress = {"iteration": number, "iterations": 600, "images_per_second": 1.0}
            report = {"sequence": REPORTS + number, "progress": progress}
            api.post(attempt.path, report, token=attempt.token)
            wait_until(lambda count=num_events: len(event_times) > count)  # type: ignore[misc]
            latencies.append(event_times[-1] - started)
        api.post(f"/v1/jobs/{attempt.job_id}/kill", None)
        reader.join()
    # The first event may have waited until the stream was open.
    return latencies[1:]


def _read_stream(
    http: httpx.Client, job_id: str, headers: dict[str, str], event_times: list[float]
) -> None:
    with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as response:
        for line in response.iter_lines():
            if line == "event: progress":
                event_times.append(time.monotonic())  # noqa: PERF401 - at its arrival


def _measure_claim_rate(database: Database, url: str, *, dispatchers: int) -> float:
    """Claims per second of processes that claim at the same time.

    Each has claimed before, as one that has run for a minute: its statements are compiled.
    """
    _insert_jobs(database, CLAIMS + dispatchers * admission.MAX_CLAIMS, JobState.QUEUED)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(dispatchers + 1)
    processes = [
        context.Process(target=_claim_all, args=(url, f"d{number}", barrier))
        for number in range(dispatchers)
    ]
    for process in processes:
        process.start()
    barrier.wait()
    started = time.monotonic()
    for process in processes:
        process.join()
    rate = CLAIMS / (time.monotonic() - started)
    _end_all_jobs(database)
    return rate


def _end_all_jobs(database: Database) -> None:
    """The next part starts with an empty queue and a free cluster."""
    ended = {"state": AttemptState.ENDED, "ended_at": _now(), "released_at": _now()}
    with database.transaction() as session:
        session.execute(update(AttemptRow).values(**ended))
        session.execute(
            update(JobRow)
            .where(JobRow.state.in_((JobState.QUEUED, JobState.STARTING)))
            .values(state=JobState.CANCELLED, finished_at=_now())
        )


def _claim_all(url: str, owner: str, barrier: Any) -> None:
    database = Database(url)
    _claim(database, owner)
    barrier.wait()
    while len(_claim(database, owner)) == admission.MAX_CLAIMS:
        pass
    database.close()


def _claim(database: Database, owner: str) -> list[Claim]:
    with database.transaction() as session:
        return admission.claim_jobs(
            session, owner=owner, now=_now(), lease_seconds=1e6, data_dir=NO_DATA
        )


def _insert_jobs(database: Database, count: int, state: JobState) -> None:
    """Copies of a submitted job, written without the API."""
    with database.reading() as session:
        job = session.scalar(select(JobRow).limit(1))
        assert job is not None
        fields = {column.key: getattr(job, column.key) for column in JobRow.__table__.columns}
    now = _now()
    rows = []
    for number in range(count):
        created_at = now + timedelta(microseconds=number)
        changes = {
            "id": ids.new_id(created_at),
            "state": state,
            "created_at": created_at,
            "finished_at": created_at if state.is_final else None,
            "queue_sort_key": queue_order.make_sort_key(
                created_at=created_at, priority=50, points=0
            ),
            "idempotency_key": None,
            "attempts": 0,
        }
        rows.append(fields | changes)
    with database.transaction() as session:
        for first in range(0, count, 1_000):
            session.execute(insert(JobRow), rows[first : first + 1_000])


def _time(call: Callable[[], object]) -> float:
    """Seconds that the call takes."""
    started = time.monotonic()
    call()
    return time.monotonic() - started


def _percentile(seconds: list[float], percent: int) -> float:
    """In milliseconds."""
    return statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1] * 1000


def _now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    sys.exit(main())
