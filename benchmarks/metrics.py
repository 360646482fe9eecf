"""`make bench-metrics`: milliseconds to read the metrics of many jobs for one chart.

20 jobs of 1,000,000 points each, 1,000 buckets, complete and in random ranges, over HTTP, on SQLite
and PostgreSQL. The points of the first job are reported; the others are copies of its rows.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import insert, literal, select

from benchmarks.api_process import TOKEN, ApiProcess, running_api
from benchmarks.results_table import Result, write_results
from service.jobs import records
from service.specs.protocol import MAX_POINTS
from service.storage import schema
from service.storage.database import Database
from service.storage.tables import MetricBucketRow, MetricRow
from service.text import count_of
from tests.support.core import Clock, Core, job_id_of, make_point
from tests.support.postgres import postgres_server

SERIES = "train/loss"
BUCKETS = 1000
_COPIED_AT_ONCE = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-metrics", description=__doc__)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--points", type=int, default=1_000_000, help="of each job")
    parser.add_argument("--requests", type=int, default=200)
    options = parser.parse_args()
    results: list[Result] = []
    for name, url, folder in _databases():
        with closing(Database(url)) as database:
            schema.upgrade(database)
            jobs = _fill(Core(database, Clock()), options.jobs, options.points)
        if name == "PostgreSQL":
            # As its background process does after a while.
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE")
        with running_api(url, folder / "api") as api:
            milliseconds = _measure(api, jobs, options.points, options.requests)
        size = f"{count_of(options.jobs, 'job')} of {options.points:,} points, {name}"
        results += [
            Result(f"{size}, p50", "ms", statistics.median(milliseconds)),
            Result(f"{size}, p99", "ms", statistics.quantiles(milliseconds, n=100)[98]),
        ]
    write_results("metrics", results)


def _databases() -> Iterator[tuple[str, str, Path]]:
    """Name, URL and a folder for the API's files."""
    with tempfile.TemporaryDirectory(prefix="rm") as folder:
        path = Path(folder)
        yield "SQLite", f"sqlite:///{path / 'api.db'}", path
    with (
        tempfile.TemporaryDirectory(prefix="rm") as folder,
        postgres_server(is_durable=True) as server,
    ):
        yield "PostgreSQL", server.new_database(), Path(folder)


def _fill(core: Core, num_jobs: int, num_points: int) -> list[str]:
    """The ids of the jobs."""
    core.record_cluster(cpus=num_jobs)
    claimed = core.run()
    generator = random.Random(0)  # noqa: S311 - values of a benchmark
    for sequence, start in enumerate(range(0, num_points, MAX_POINTS), start=2):
        points = [
            make_point(SERIES, iteration, generator.random())
            for iteration in range(start, min(start + MAX_POINTS, num_points))
        ]
        core.report(claimed.attempt_id, sequence, metrics=points)
    jobs = [job_id_of(claimed)]
    for _ in range(num_jobs - 1):
        jobs.append(core.submit())
        _copy_rows(core.database, jobs[0], jobs[-1], num_points=num_points)
    return jobs


def _copy_rows(database: Database, source: str, target: str, *, num_points: int) -> None:
    with database.transaction() as session:
        for row_type, position in (
            (MetricRow, MetricRow.iteration),
            (MetricBucketRow, MetricBucketRow.start),
        ):
            names = [column.name for column in row_type.__table__.c if column.name != "job_id"]
            copied = select(literal(target), *(getattr(row_type, name) for name in names))
            # In parts, since the service limits how long a statement may take.
            for start in range(0, num_points, _COPIED_AT_ONCE):
                part = copied.where(
                    row_type.job_id == source,
                    position >= start,
                    position < start + _COPIED_AT_ONCE,
                )
                session.execute(insert(row_type).from_select(["job_id", *names], part))
        original, copy = records.find_job(session, source), records.find_job(session, target)
        copy.bucket_width = original.bucket_width
        copy.bucketed_iterations = original.bucketed_iterations
        copy.latest_metrics = original.latest_metrics
        copy.newest_iteration = original.newest_iteration


def _measure(api: ApiProcess, jobs: list[str], num_points: int, num_requests: int) -> list[float]:
    """Milliseconds of each request: every second for the complete range."""
    generator = random.Random(1)  # noqa: S311
    headers = {"Authorization": f"Bearer {TOKEN}"}
    milliseconds = []
    for number in range(num_requests):
        params: dict[str, Any] = {"job": jobs, "series": SERIES, "buckets": BUCKETS}
        if number % 2:
            ends = sorted(generator.sample(range(num_points), 2))
            params |= {"from": ends[0], "to": ends[1]}
        started = time.perf_counter()
        answer = api.http.get("/v1/metrics", params=params, headers=headers)
        milliseconds.append(1000 * (time.perf_counter() - started))
        answer.raise_for_status()
    return milliseconds


if __name__ == "__main__":
    main()
