"""`make bench-wakeups`: database queries a second while jobs report and other requests wait.

100 running jobs report their progress. 200 requests wait: a stream of events for each job, and 100
runners without an attempt. All of it is one API process on SQLite and one process of clients.
"""

import argparse
import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import Engine, event

from service.text import count_of
from tests.support.api import TOKEN, serving_new
from tests.support.core import Core, Taken, job_id_of

JOBS = 100
WARM_RUNNERS = 100
_WARM_UP_SECONDS = 10.0
_PROGRESS = {"iterations": 1_000, "images_per_second": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-wakeups", description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="duration of the measurement")
    seconds: float = parser.parse_args().seconds
    counted = 0

    def count(*_: Any) -> None:
        nonlocal counted
        counted += 1

    event.listen(Engine, "before_cursor_execute", count)
    with tempfile.TemporaryDirectory(prefix="rw") as folder:
        path = Path(folder)
        with serving_new(f"sqlite:///{path / 'api.db'}", path) as api:
            jobs = _start_jobs(api.core)
            warm_runners = [api.core.start_warm_runner() for _ in range(WARM_RUNNERS)]
            clients = [(warm_runner.id, warm_runner.secret) for warm_runner in warm_runners]
            context = multiprocessing.get_context("spawn")
            reports = context.Value("i", 0)
            arguments = (api.url, jobs, clients, reports)
            process = context.Process(target=_run_clients, args=arguments)
            process.start()
            while reports.value == 0:  # until the clients have started
                time.sleep(0.1)
            time.sleep(_WARM_UP_SECONDS)
            start, counted, before = time.perf_counter(), 0, reports.value
            time.sleep(seconds)
            queries, done = counted, reports.value - before
            elapsed = time.perf_counter() - start
            process.terminate()
            process.join()
    waiters = JOBS + WARM_RUNNERS
    print(f"{count_of(JOBS, 'running job')}, {count_of(waiters, 'waiting request')}")
    print(f"{done / elapsed:.0f} reports/s, {queries / elapsed:.0f} queries/s")
    print(f"{queries / max(done, 1):.1f} queries for each report")


def _start_jobs(core: Core) -> list[Taken]:
    core.record_cluster(cpus=JOBS + WARM_RUNNERS)
    for _ in range(JOBS):
        core.submit()
    return [core.start_next() for _ in range(JOBS)]


def _run_clients(
    url: str,
    jobs: Sequence[Taken],
    warm_runners: Sequence[tuple[str, str]],
    reports: Any,
) -> None:
    asyncio.run(_load(url, jobs, warm_runners, reports))


async def _load(
    url: str,
    jobs: Sequence[Taken],
    warm_runners: Sequence[tuple[str, str]],
    reports: Any,
) -> None:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        base_url=url, timeout=600.0, limits=limits, trust_env=False
    ) as http:
        waiting = [_follow(http, job_id_of(job)) for job in jobs]
        waiting += [_poll(http, runner_id, secret) for runner_id, secret in warm_runners]
        waiting += [_report(http, job, reports) for job in jobs]
        await asyncio.gather(*waiting)


async def _follow(http: httpx.AsyncClient, job_id: str) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"}
    path = f"/v1/jobs/{job_id}/events"
    async with http.stream("GET", path, headers=headers) as response:
        async for _ in response.aiter_lines():
            pass


async def _poll(http: httpx.AsyncClient, runner_id: str, secret: str) -> None:
    headers = {"Authorization": f"Bearer {secret}"}
    while True:
        path = f"/v1/runners/{runner_id}/next"
        await http.post(path, headers=headers, json={"wait_seconds": 60.0})


async def _report(http: httpx.AsyncClient, job: Taken, reports: Any) -> None:
    """Each second, as the training processes do, or more slowly where the API is slower."""
    headers = {"Authorization": f"Bearer {job.secret}"}
    path = f"/v1/attempts/{job.attempt_id}/reports"
    sequence = 0
    while True:
        sequence += 1
        due = time.monotonic() + 1.0
        body = {"sequence": sequence, "progress": _PROGRESS | {"iteration": sequence}}
        response = await http.post(path, headers=headers, json=body)
        if response.is_success:
            with reports.get_lock():
                reports.value += 1
        await asyncio.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main()
