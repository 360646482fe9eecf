"""`make bench-web`: how fast the dashboard is in Chromium, and what its viewers cost the API.

An API process on SQLite, headless Chromium without a GPU, and processes that report and follow, all
of them on this machine. Frames are those in which Chromium calls `requestAnimationFrame`.
"""

import argparse
import asyncio
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx
import psutil
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import insert, select, text

from benchmarks.api_process import TOKEN, ApiProcess, running_api, wait_until
from benchmarks.results_table import Result, write_results
from service import ids
from service.jobs import records
from service.specs.protocol import MetricPoint, Progress, TrainingResult
from service.storage import schema
from service.storage.database import Database
from service.storage.tables import JobRow
from tests.support.browser import open_browser, sign_in
from tests.support.core import Clock, Core, Taken, job_id_of

RUNNING_JOBS = 20
POINTS_OF_RUNNING = 1_000
REPORTS_PER_SECOND = 10.0
FRAME_SECONDS = 20.0

LONG_SERIES = "train/loss"
CHART_LOADS = 5

VIEWERS = 50
VIEWED_SECONDS = 20.0
# As training processes report.
VIEWED_REPORTS_PER_SECOND = 1.0

LISTED_JOBS = 10_000
PIXELS_PER_FRAME = 1_500

_WARM_UP_SECONDS = 5.0


@dataclass(frozen=True)
class Service:
    """An API process, and the domain on the same database."""

    core: Core
    api: ApiProcess


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-web", description=__doc__)
    parser.add_argument(
        "--part", choices=PARTS, action="append", help="measure this part only; repeatable"
    )
    parser.add_argument(
        "--points", type=int, default=10_000_000, help="of the job whose chart is drawn"
    )
    options = parser.parse_args()
    results: list[Result] = []
    load = f"{os.getloadavg()[0]:.1f}"
    with open_browser() as browser:
        for part in options.part or PARTS:
            with _new_service() as service:
                results += PARTS[part](browser, service, options)
    print(f"load average of the machine: {load} before, {os.getloadavg()[0]:.1f} after")
    # Results of some parts must not replace those of all.
    write_results("web-part" if options.part else "web", results)
    return 0


@contextmanager
def _new_service() -> Iterator[Service]:
    with tempfile.TemporaryDirectory(prefix="rw") as temporary:
        folder = Path(temporary)
        url = f"sqlite:///{folder / 'bench.db'}"
        clock = Clock()
        clock.now = datetime.now(UTC) - timedelta(hours=6)
        with closing(Database(url)) as database:
            schema.upgrade(database)
            core = Core(database, clock)
            core.record_cluster(cpus=RUNNING_JOBS)
            with running_api(url, folder / "api") as api:
                yield Service(core, api)


@contextmanager
def _signed_in(browser: Browser, api: ApiProcess) -> Iterator[Page]:
    with closing(browser.new_context(viewport={"width": 1280, "height": 900})) as context:
        page = context.new_page()
        sign_in(page, api.url, TOKEN)
        yield page


def _measure_frames(browser: Browser, service: Service, _: argparse.Namespace) -> list[Result]:
    """Of the page that compares running jobs, with a line for each series of each job."""
    running = _start_running(service.core)
    query = urlencode([*(("job", job_id_of(job)) for job in running), ("group", "none")])
    with (
        _signed_in(browser, service.api) as page,
        _reporting(service.api, running, per_second=REPORTS_PER_SECOND) as reports,
    ):
        page.goto(f"{service.api.url}/compare?{query}")
        expect(page.locator(".chart canvas")).to_have_count(2)
        time.sleep(_WARM_UP_SECONDS)
        with _count(reports) as rate:
            times: list[float] = page.evaluate(_RECORD_FRAMES, FRAME_SECONDS * 1000)
    seconds = [int((at - times[0]) / 1000) for at in times]
    # The last second is not complete.
    counts = [seconds.count(second) for second in range(seconds[-1])]
    name = f"compare {RUNNING_JOBS} running jobs of {POINTS_OF_RUNNING:,} points"
    return [
        Result(f"{name}, median", "frames/s", statistics.median(counts), is_higher_better=True),
        Result(f"{name}, slowest second", "frames/s", min(counts), is_higher_better=True),
        Result(f"{name}, reports meanwhile", "1/s", rate(), is_higher_better=True),
    ]


# Milliseconds at which frames began.
_RECORD_FRAMES = """(milliseconds) => new Promise((resolve) => {
  const times = [];
  const record = () => {
    const now = performance.now();
    times.push(now);
    if (now - times[0] > milliseconds) resolve(times);
    else requestAnimationFrame(record);
  };
  requestAnimationFrame(record);
})"""


def _start_running(core: Core) -> list[Taken]:
    """Running jobs with points of training at each iteration and of tests at some."""
    running = []
    for seed in range(RUNNING_JOBS):
        job = core.start(seed=seed, shortcut="A" if seed % 2 else "none")
        for sequence, first in enumerate(range(0, POINTS_OF_RUNNING, 100), start=1):
            points = [
                point
                for iteration in range(first, first + 100)
                for point in _make_points(core, seed, iteration)
            ]
            core.report(job.attempt_id, sequence, metrics=points)
        running.append(job)
    return running


def _make_points(core: Core, seed: int, iteration: int) -> list[MetricPoint]:
    kinds = ("train", "test") if iteration % 25 == 0 else ("train",)
    return [
        MetricPoint(
            series=f"{kind}/{quantity}",
            iteration=iteration,
            value=scale / (1 + iteration / 200) + (seed * iteration) % 7 * scale / 100,
            seconds=iteration / 10,
            at=core.clock.now,
        )
        for kind in kinds
        for quantity, scale in (("error", 90.0), ("loss", 2.3))
    ]


@contextmanager
def _reporting(api: ApiProcess, running: Sequence[Taken], *, per_second: float) -> Iterator[Any]:
    """The number of reports that the API has accepted, while a process sends them for all jobs."""
    attempts = [(job.attempt_id, job.secret) for job in running]
    with _counting_process(_run_reporters, api.url, attempts, per_second) as reports:
        yield reports


@contextmanager
def _counting_process(target: Callable[..., None], *arguments: Any) -> Iterator[Any]:
    """What the function counts in its last argument, in a process of its own, from the first on."""
    context = multiprocessing.get_context("spawn")
    counter = context.Value("i", 0)
    process = context.Process(target=target, args=(*arguments, counter))
    process.start()
    try:
        wait_until(lambda: counter.value > 0 or process.exitcode is not None)
        yield counter
        assert process.exitcode is None, "the process of clients has failed"
    finally:
        process.terminate()
        process.join()


@contextmanager
def _count(counter: Any) -> Iterator[Callable[[], float]]:
    """A function that returns the increase per second during the context."""
    before, started, rate = counter.value, time.monotonic(), 0.0
    yield lambda: rate
    rate = (counter.value - before) / (time.monotonic() - started)


def _run_reporters(
    url: str, attempts: Sequence[tuple[str, str]], per_second: float, counter: Any
) -> None:
    async def run() -> None:
        async with _client(url) as http:
            await asyncio.gather(
                *(
                    _report(http, index, attempt, per_second, counter)
                    for index, attempt in enumerate(attempts)
                )
            )

    asyncio.run(run())


async def _report(
    http: httpx.AsyncClient, index: int, attempt: tuple[str, str], per_second: float, counter: Any
) -> None:
    """An iteration with each report, as often as given, or less often where the API is slower."""
    attempt_id, secret = attempt
    headers = {"Authorization": f"Bearer {secret}"}
    # So that the jobs do not report all at once.
    due = time.monotonic() + index / RUNNING_JOBS / per_second
    for number in range(1, sys.maxsize):
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        due = max(time.monotonic(), due + 1 / per_second)
        iteration = POINTS_OF_RUNNING - 1 + number
        point = {
            "iteration": iteration,
            "seconds": iteration / 10,
            "at": datetime.now(UTC).isoformat(),
        }
        values = {"train/error": 20.0 + number % 5, "train/loss": 0.5 + number % 5 / 100}
        body = {
            "sequence": POINTS_OF_RUNNING // 100 + number,
            "progress": {"iteration": iteration, "iterations": 64_000, "images_per_second": 1.0},
            "metrics": [point | {"series": name, "value": value} for name, value in values.items()],
        }
        path = f"/v1/attempts/{attempt_id}/reports"
        (await http.post(path, headers=headers, json=body)).raise_for_status()
        with counter.get_lock():
            counter.value += 1


def _client(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=url, timeout=600.0, limits=limits, trust_env=False)


def _measure_chart(browser: Browser, service: Service, options: argparse.Namespace) -> list[Result]:
    """Seconds from the navigation to the frame that shows the first chart of a long job."""
    job_id = _fill_long_job(service.core, options.points)
    _check_buckets(service.api, job_id, options.points)
    with _signed_in(browser, service.api) as page:
        page.add_init_script(_RECORD_CHART)
        seconds = []
        for _ in range(CHART_LOADS):
            page.goto(f"{service.api.url}/jobs/{job_id}")
            milliseconds: float = page.evaluate("window.chartDrawn")
            seconds.append(milliseconds / 1000)
    name = f"chart of a job with {options.points:,} points"
    return [
        Result(f"{name}, median of {CHART_LOADS}", "s", statistics.median(seconds)),
        Result(f"{name}, slowest", "s", max(seconds)),
    ]


# When the frame after that in which the first chart was drawn began.
_RECORD_CHART = """window.chartDrawn = new Promise((resolve) => {
  new MutationObserver((_, observer) => {
    if (!document.querySelector(".chart canvas")) return;
    observer.disconnect();
    requestAnimationFrame(() => requestAnimationFrame(() => resolve(performance.now())));
  }).observe(document, { childList: true, subtree: true });
})"""

_INSERT_POINTS = text("""
    WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :stop)
    INSERT INTO metrics (job_id, series, iteration, attempt, value, seconds, time)
    SELECT :job_id, :series, n, 1, 2.3 / (1 + n / 100000.0) + (random() & 1023) / 4096.0,
        n * 0.01, :time + n * 0.01
    FROM numbers
""")
# Of two buckets, each of half the width. A point is a bucket of one value.
_POINTS = """
    SELECT iteration AS start, 1 AS num_values, value AS sum, value AS first, value AS min,
        value AS max, value AS last, iteration, seconds, time
    FROM metrics WHERE job_id = :job_id AND series = :series
"""
_BUCKETS = """
    SELECT * FROM metric_buckets WHERE job_id = :job_id AND series = :series AND level = :level - 1
"""
_INSERT_LEVEL = """
    INSERT INTO metric_buckets (job_id, series, level, start, num_values, sum, first, min, max,
        last, iteration, seconds, time)
    SELECT :job_id, :series, :level, a.start, a.num_values + b.num_values, a.sum + b.sum, a.first,
        min(a.min, b.min), max(a.max, b.max), b.last, b.iteration, b.seconds, b.time
    FROM ({halves}) AS a JOIN ({halves}) AS b ON b.start = a.start + :width / 2
    WHERE a.start % :width = 0
"""


def _fill_long_job(core: Core, points: int) -> str:
    """The id of a running job with a point at each iteration, stored as its reports would be."""
    job = core.start()
    job_id = job_id_of(job)
    first = MetricPoint(series=LONG_SERIES, iteration=0, value=2.5, seconds=0.0, at=core.clock.now)
    progress = Progress(iteration=points - 1, iterations=points, images_per_second=12_800.0)
    core.report(job.attempt_id, 1, metrics=[first], progress=progress)
    values: dict[str, Any] = {"job_id": job_id, "series": LONG_SERIES}
    with core.database.transaction() as session:
        session.execute(
            _INSERT_POINTS, values | {"stop": points, "time": core.clock.now.timestamp()}
        )
        row = records.find_job(session, job_id)
        row.bucket_width, row.bucketed_iterations, row.unbucketed_points = 1, points, 0
        level, width = 1, 2
        while width <= points:
            insert_level = _INSERT_LEVEL.format(halves=_POINTS if level == 1 else _BUCKETS)
            session.execute(text(insert_level), values | {"level": level, "width": width})
            level, width = level + 1, width * 2
    return job_id


def _check_buckets(api: ApiProcess, job_id: str, points: int) -> None:
    """The chart must have all points, and not only those in buckets that were found."""
    (job,) = api.get(f"/v1/metrics?{urlencode({'job': job_id, 'buckets': 500})}")["jobs"]
    counts = job["series"][LONG_SERIES]["count"]
    assert sum(counts) == points, f"{sum(counts)} of {points} points are in buckets"


def _measure_viewers(browser: Browser, service: Service, _: argparse.Namespace) -> list[Result]:
    """CPU seconds of the API process per second: with reports only, then with viewers too."""
    running = _start_running(service.core)
    jobs = [job_id_of(job) for job in running]
    with _signed_in(browser, service.api) as page:
        pages = _list_stream_url(page, service.api.url)
        of_first = _list_stream_url(page, f"{service.api.url}/jobs/{jobs[0]}")
    streams = [
        pages if number % 2 else of_first.replace(jobs[0], jobs[number // 2 % len(jobs)])
        for number in range(VIEWERS)
    ]
    process = psutil.Process(service.api.pid)
    with _reporting(service.api, running, per_second=VIEWED_REPORTS_PER_SECOND) as reports:
        time.sleep(_WARM_UP_SECONDS)
        with _count(reports) as rate:
            alone = _measure_cores(process)
        with _counting_process(_run_viewers, service.api.url, streams) as messages:
            time.sleep(_WARM_UP_SECONDS)
            with _count(messages) as message_rate:
                viewed = _measure_cores(process)
    return [
        Result(f"API for {VIEWERS} viewers of {RUNNING_JOBS} jobs", "cores", viewed - alone),
        Result(f"API for {VIEWERS} viewers and {rate():.0f} reports/s", "cores", viewed),
        Result(f"messages to {VIEWERS} viewers", "1/s", message_rate(), is_higher_better=True),
    ]


def _list_stream_url(page: Page, url: str) -> str:
    """Path and query of the stream that a page follows once it is complete."""
    found: list[str] = []
    page.on("request", lambda sent: found.append(sent.url) if "/v1/stream?" in sent.url else None)
    page.goto(url)
    page.wait_for_timeout(3_000)
    reads = [value for _, value in parse_qsl(urlsplit(found[-1]).query)]
    # What the page had read by then is not known to another viewer.
    reads = [re.sub(r"([?&])after=[^&]*&?", r"\1", read).rstrip("?&") for read in reads]
    return f"/v1/stream?{urlencode([('read', read) for read in reads])}"


def _measure_cores(process: psutil.Process) -> float:
    started, before = time.monotonic(), process.cpu_times()
    time.sleep(VIEWED_SECONDS)
    used = process.cpu_times()
    seconds = used.user + used.system - before.user - before.system
    return seconds / (time.monotonic() - started)


def _run_viewers(url: str, streams: Sequence[str], counter: Any) -> None:
    async def run() -> None:
        async with _client(url) as http:
            await asyncio.gather(*(_follow(http, stream, counter) for stream in streams))

    asyncio.run(run())


async def _follow(http: httpx.AsyncClient, stream: str, counter: Any) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"}
    async with http.stream("GET", stream, headers=headers) as response:
        response.raise_for_status()
        async for chunk in response.aiter_bytes():
            with counter.get_lock():
                counter.value += chunk.count(b"event: response")


def _measure_scroll(browser: Browser, service: Service, _: argparse.Namespace) -> list[Result]:
    """Frames while the list is scrolled to its end, which reads its pages on the way."""
    _fill_list(service.core)
    with _signed_in(browser, service.api) as page:
        expect(page.get_by_text("100 or more", exact=True)).to_be_visible()
        started = time.monotonic()
        milliseconds: list[float] = page.evaluate(_SCROLL_TO_END, PIXELS_PER_FRAME)
        seconds = time.monotonic() - started
        expect(page.locator(f"tr[aria-rowindex='{LISTED_JOBS + 1}']")).to_be_visible()
    name = f"scroll {LISTED_JOBS:,} jobs"
    return [
        Result(f"{name}, longest frame", "ms", max(milliseconds)),
        Result(f"{name}, median frame", "ms", statistics.median(milliseconds)),
        Result(f"{name}, first row to last", "s", seconds),
    ]


# Milliseconds of each frame, until the last row of the last page is in the window.
_SCROLL_TO_END = """(pixels) => new Promise((resolve) => {
  const milliseconds = [];
  let before = performance.now();
  const scroll = () => {
    const now = performance.now();
    milliseconds.push(now - before);
    before = now;
    // Text without layout, which would count as the page's.
    const titles = [...document.querySelectorAll("h2 + .muted")];
    const isComplete = !titles.some(({ textContent }) => textContent.endsWith("or more"));
    const { scrollHeight } = document.documentElement;
    if (isComplete && scrollY + innerHeight >= scrollHeight - 1) return resolve(milliseconds);
    scrollBy(0, pixels);
    requestAnimationFrame(scroll);
  };
  requestAnimationFrame(scroll);
})"""


def _fill_list(core: Core) -> None:
    """Copies of a finished job, written without the service."""
    job = core.run(tags=["course"])
    core.finish(
        job.attempt_id,
        result=TrainingResult(train_error=0.5, test_error=2.5, training_seconds=60.0),
    )
    with core.database.transaction() as session:
        (row,) = session.execute(select(JobRow.__table__)).mappings()
        copies = []
        for number in range(1, LISTED_JOBS):
            at = core.clock.now + timedelta(seconds=number)
            times = {"created_at": at, "started_at": at, "finished_at": at + timedelta(minutes=1)}
            spec = row["spec"] | {"seed": number, "name": f"job {number}"}
            changes = {"id": ids.new_id(at), "name": spec["name"], "spec": spec}
            copies.append(dict(row) | times | changes)
        session.execute(insert(JobRow), copies)


def _measure_visit(browser: Browser, service: Service, _: argparse.Namespace) -> list[Result]:
    """What a browser without a cache receives until the form of the sign-in is there."""
    sizes: list[float] = []
    with closing(browser.new_context()) as context:
        page = context.new_page()
        session = context.new_cdp_session(page)
        session.send("Network.enable")
        session.on(
            "Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"])
        )
        page.goto(service.api.url)
        expect(page.get_by_label("Token")).to_be_visible()
        page.wait_for_load_state("networkidle")
    return [Result("first visit, compressed, with headers", "kB", sum(sizes) / 1000)]


PARTS = {
    "frames": _measure_frames,
    "chart": _measure_chart,
    "viewers": _measure_viewers,
    "scroll": _measure_scroll,
    "visit": _measure_visit,
}


if __name__ == "__main__":
    sys.exit(main())
