"""`make simulate JOBS=1000 NODES=20`: the queue with a real database and simulated nodes.

Jobs are submitted, claimed by a dispatcher, given to runners, reported and finished, with the real
database, scheduling policy and dispatcher; one in 20 is submitted over HTTP to a real API. What
trains is simulated, and so is time: hours pass in seconds. CPU time is measured, since it does not
depend on what else the machine does.

    make simulate JOBS=400 NODES=20 HISTORY=99600 DATABASE=postgres

`HISTORY`: finished jobs that are in the database before, copied from one that was run.
"""

import argparse
import logging
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import structlog
from rich.console import Console
from rich.table import Table
from sqlalchemy import func, select

from benchmarks.job_history import copy_job
from benchmarks.meter import Meter, Reading
from benchmarks.results_table import Result, write_results
from benchmarks.simulated_cluster import SimulatedCluster
from service.execution import runners
from service.jobs import submission
from service.scheduling.leases import Claim
from service.settings import Settings
from service.states import JobState
from service.storage import schema
from service.storage.database import Database
from service.storage.tables import AttemptRow, JobRow
from tests.support.api import Api, serving
from tests.support.core import Clock, Core, spec
from tests.support.postgres import postgres_server
from workers.dispatcher.dispatcher import Dispatcher

CPUS_PER_NODE = 8
# Of what the cluster can do; above 1 the queue would grow without limit.
LOAD = 0.95
MEDIAN_SECONDS, SPREAD = 400.0, 0.8
USERS = 30
# (workers, CPUs of each, weight)
SHAPES = ((1, 1, 5), (1, 2, 3), (2, 1, 2), (2, 2, 1), (4, 2, 1))
# Each of these looks at the service over HTTP, too.
HTTP_EVERY = 20
# The dispatcher polls Ray each second; simulated hours would be polls only.
POLL_SECONDS = 60.0
TICK_SECONDS = 5.0
_FOREVER = 300 * 86_400.0


class MeteredDispatcher(Dispatcher):
    """Measures what its rounds consist of."""

    meter: Meter

    def run_round(self) -> float:
        with self.meter.measure("rest of a round"):
            return super().run_round()

    def _reconcile(self) -> None:
        with self.meter.measure("reconcile"):
            super()._reconcile()

    def _claim(self) -> list[Claim]:
        with self.meter.measure("claim"):
            return super()._claim()


@dataclass(frozen=True)
class Slice:
    """The state after a part of the jobs, and what that part cost."""

    jobs_in_database: int
    finished: int
    reading: Reading
    database_bytes: int
    running: int


@dataclass
class Outcome:
    """Of all live jobs. `waits`: simulated seconds from submission to start, by start."""

    waits: list[float] = field(default_factory=list)
    utilisation: float = 0.0
    slices: list[Slice] = field(default_factory=list)
    http_ms: dict[str, list[float]] = field(default_factory=dict)
    pending_runners: int = 0
    most_cpus_in_use: int = 0


class Simulation:
    """`jobs` live jobs on `nodes` nodes, after `history` finished ones."""

    def __init__(
        self,
        core: Core,
        meter: Meter,
        folder: Path,
        *,
        jobs: int,
        nodes: int,
        history: int = 0,
        api: Api | None = None,
        tick_seconds: float = TICK_SECONDS,
    ) -> None:
        self._core, self._meter, self._api = core, meter, api
        self._jobs, self._history = jobs, history
        self._tick = timedelta(seconds=tick_seconds)
        self._random = random.Random(0)  # noqa: S311
        self._seconds: dict[str, float] = {}
        self._submitted_at: dict[str, datetime] = {}
        self.cluster = SimulatedCluster(
            core,
            meter,
            nodes=nodes,
            cpus_per_node=CPUS_PER_NODE,
            seconds_of=lambda job_id: self._seconds[job_id],
        )
        settings = Settings(
            var_dir=folder,
            lease_seconds=_FOREVER,
            start_timeout_seconds=_FOREVER,
            heartbeat_timeout_seconds=_FOREVER,
            poll_interval_seconds=POLL_SECONDS,
        )
        self.dispatcher = MeteredDispatcher(
            settings,
            core.database,
            self.cluster,
            now=core.clock,
            monotonic=lambda: core.clock().timestamp(),
        )
        self.dispatcher.meter = meter
        weights = [weight for *_, weight in SHAPES]
        mean_cpus = sum(w * c * n for w, c, n in SHAPES) / sum(weights)
        mean_seconds = MEDIAN_SECONDS * math.exp(SPREAD**2 / 2)
        self._seconds_between = mean_cpus * mean_seconds / (self.cluster.capacity * LOAD)
        self.outcome = Outcome()

    def run(self) -> Outcome:
        arrivals = self._make_arrivals()
        next_arrival = next(arrivals)
        self.dispatcher.run_round()
        next_slice = 0
        started_at = self._core.clock.now
        busy: list[tuple[datetime, int]] = []
        last_arrival = started_at
        while self.cluster.num_finished < self._jobs:
            if self.cluster.num_finished * 10 >= next_slice * self._jobs:
                self._add_slice()
                next_slice += 1
            end = self._core.clock.now + self._tick
            while next_arrival is not None and next_arrival <= end:
                self.cluster.run_until(next_arrival)
                self._submit()
                last_arrival = next_arrival
                next_arrival = next(arrivals, None)
            self.cluster.run_until(end)
            busy.append((end, self.cluster.cpus_in_use))
            self.dispatcher.run_round()
            self.cluster.wake_runners()
        self._add_slice()
        first, last = started_at + (last_arrival - started_at) / 2, last_arrival
        in_use = [cpus for at, cpus in busy if first <= at <= last]
        self.outcome.utilisation = statistics.fmean(in_use or [0]) / self.cluster.capacity
        self.outcome.waits = [
            (training.started_at - self._submitted_at[training.job_id]).total_seconds()
            for training in self.cluster.started
        ]
        self.outcome.pending_runners = self.cluster.pending_runners
        self.outcome.most_cpus_in_use = self.cluster.most_cpus_in_use
        return self.outcome

    def _make_arrivals(self) -> Iterator[datetime | None]:
        at = self._core.clock.now
        for _ in range(self._jobs):
            at += timedelta(seconds=self._random.expovariate(1 / self._seconds_between))
            yield at

    def _submit(self) -> None:
        number = len(self._submitted_at)
        workers, cpus, _ = self._random.choices(SHAPES, [weight for *_, weight in SHAPES])[0]
        seconds = self._random.lognormvariate(0.0, SPREAD) * MEDIAN_SECONDS
        body = {
            "resources": {"num_workers": workers, "cpus_per_worker": cpus},
            "priority": self._random.choice((25, 50, 50, 75)),
            "seed": number,
        }
        user = f"user-{self._random.randrange(USERS)}"
        if self._api is not None and number % HTTP_EVERY == 0:
            job_id = self._submit_over_http(self._api, body)
        else:
            with (
                self._meter.measure("submit"),
                self._core.database.transaction() as session,
            ):
                job_id = submission.submit(
                    session,
                    spec(**body),
                    user=user,
                    data_dir=self._core.data_dir,
                    now=self._core.clock.now,
                ).row.id
        self._seconds[job_id] = seconds
        self._submitted_at[job_id] = self._core.clock.now

    def _submit_over_http(self, api: Api, body: dict[str, Any]) -> str:
        request = {"depth": 8, "shortcut": "A", "dataset": "digits"} | body
        response = self._time("POST", lambda: api.post("/v1/jobs", request))
        job_id: str = response.json()["id"]
        self._time("list", lambda: api.get("/v1/jobs?limit=50"))
        self._time("queue", lambda: api.get("/v1/queue?limit=50"))
        return job_id

    def _time(self, name: str, call: Callable[[], Any]) -> Any:
        """CPU time of this process, with the API in it."""
        started = time.process_time()
        with self._meter.measure(f"HTTP {name}"):
            response = call()
        response.raise_for_status()
        elapsed = (time.process_time() - started) * 1000
        self.outcome.http_ms.setdefault(name, []).append(elapsed)
        return response

    def _add_slice(self) -> None:
        with self._core.database.reading() as session:
            size = self._core.database.read_size(session)
            running = session.scalar(select(func.count()).where(AttemptRow.released_at.is_(None)))
        in_database = self._history + len(self._submitted_at)
        self.outcome.slices.append(
            Slice(in_database, self.cluster.num_finished, self._meter.read(), size, running or 0)
        )


def check_invariants(core: Core, simulation: Simulation) -> None:
    """Each job ran once and succeeded; no CPU was given away twice."""
    cluster = simulation.cluster
    assert cluster.least_free >= 0
    assert cluster.most_cpus_in_use <= cluster.capacity
    started = [training.job_id for training in cluster.started]
    assert len(started) == len(set(started)) == len(simulation.outcome.waits)
    with core.database.reading() as session:
        counted = select(JobRow.state, func.count()).group_by(JobRow.state)
        states = {row.state: row[1] for row in session.execute(counted)}
        attempts = session.scalar(select(func.count()).select_from(AttemptRow))
    assert states == {JobState.SUCCEEDED: attempts}, states


@contextmanager
def opened(kind: str, folder: Path) -> Iterator[tuple[Core, Meter, str]]:
    """A new database whose clock begins now."""
    with ExitStack() as stack:
        server_pid = None
        if kind == "sqlite":
            url = f"sqlite:///{folder / 'simulation.db'}"
        else:
            server = stack.enter_context(postgres_server(is_durable=True))
            url = server.new_database()
            server_pid = int((server.data_dir / "postmaster.pid").read_text().split()[0])
        database = Database(url)
        stack.callback(database.close)
        schema.upgrade(database)
        clock = Clock()
        clock.now = datetime.now(UTC)
        yield Core(database, clock), Meter(database, server_pid=server_pid), url


def main() -> int:
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--history", type=int, default=0, help="finished jobs before")
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    options = parser.parse_args()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    )
    with tempfile.TemporaryDirectory(prefix="rs") as temporary:
        folder = Path(temporary)
        with opened(options.database, folder) as (core, meter, url):
            if options.history:
                _write_history(core, meter, folder, options.history)
            with serving(core, url, folder) as api:
                simulation = Simulation(
                    core,
                    meter,
                    folder,
                    jobs=options.jobs,
                    nodes=options.nodes,
                    history=options.history,
                    api=api,
                )
                outcome = simulation.run()
            if not options.history:
                check_invariants(core, simulation)
    name = f"{options.jobs + options.history:,} jobs, {options.nodes:,} nodes, {options.database}"
    print_slices(outcome, title=name)
    print(f"load average of the machine: {os.getloadavg()[0]:.1f}")
    write_results(f"simulate-{options.database}", make_results(outcome))
    return 0


def _write_history(core: Core, meter: Meter, folder: Path, number: int) -> None:
    """Copies of one job that ran."""
    Simulation(core, meter, folder, jobs=1, nodes=1).run()
    with core.database.transaction() as session:
        for runner in runners.list_runners(session):
            runners.mark_terminated(session, runner.id, now=core.clock.now)
    started = time.monotonic()
    copy_job(core.database, number)
    print(f"wrote {number:,} finished jobs in {time.monotonic() - started:.0f} s", flush=True)


def print_slices(outcome: Outcome, *, title: str) -> None:
    """A row for each tenth of the jobs: cost of each operation, in milliseconds of CPU."""
    names = sorted({name for piece in outcome.slices for name in piece.reading.costs})
    table = Table("jobs", "running", "MB", "jobs/s", "CPU ms/job", "queries/job", title=title)
    for name in names:
        table.add_column(f"{name} ms", justify="right")
    for before, after in pairwise(outcome.slices):
        row = describe_slice(before, after)
        costs = [row.get(name) for name in names]
        table.add_row(
            f"{after.jobs_in_database:,}",
            f"{after.running:,}",
            f"{after.database_bytes / 1e6:,.0f}",
            *(f"{row[name]:,.1f}" for name in ("jobs/s", "CPU ms/job", "queries/job")),
            *("" if cost is None else f"{cost:.1f}" for cost in costs),
        )
    Console(width=200).print(table)


def describe_slice(before: Slice, after: Slice) -> dict[str, float]:
    """Rates of the jobs that finished between two states, and CPU ms of one call of each kind."""
    jobs = max(1, after.finished - before.finished)
    first, last = before.reading, after.reading
    server = last.server_seconds - first.server_seconds
    cpu_seconds = last.cpu_seconds - first.cpu_seconds + server
    described = {
        "jobs/s": jobs / (last.seconds - first.seconds),
        "CPU ms/job": 1000 * cpu_seconds / jobs,
        "server ms/job": 1000 * server / jobs,
        "queries/job": (last.queries - first.queries) / jobs,
        "queries/s": (last.queries - first.queries) / (last.seconds - first.seconds),
    }
    for name, cost in last.costs.items():
        earlier = first.costs.get(name)
        calls = cost.calls - (earlier.calls if earlier else 0)
        if calls:
            seconds = cost.cpu_seconds - (earlier.cpu_seconds if earlier else 0.0)
            described[name] = 1000 * seconds / calls
    return described


def make_results(outcome: Outcome) -> list[Result]:
    # Without the first tenth, in which statements are compiled and the nodes fill.
    first, last = outcome.slices[1], outcome.slices[-1]
    row = describe_slice(first, last)
    results = [
        Result("jobs/s", "1/s", row["jobs/s"], is_higher_better=True),
        Result("CPU of this process and the database server per job", "ms", row["CPU ms/job"]),
        Result("of that, the database server", "ms", row["server ms/job"]),
        Result("queries per job", "", row["queries/job"]),
        Result("queries/s", "1/s", row["queries/s"], is_higher_better=True),
        Result("database", "MB", last.database_bytes / 1e6),
        Result("wait p50, simulated", "s", statistics.median(outcome.waits)),
        Result("wait p90, simulated", "s", _percentile(outcome.waits, 90)),
        Result("utilisation of the nodes", "%", 100 * outcome.utilisation),
        Result("runners that waited inside Ray", "", outcome.pending_runners),
    ]
    results += [
        Result(f"{name}, CPU of this process", "ms", row[name])
        for name in sorted(last.reading.costs)
        if name in row and not name.startswith("HTTP")
    ]
    for name, milliseconds in outcome.http_ms.items():
        results.append(Result(f"HTTP {name}, CPU p50", "ms", statistics.median(milliseconds)))
        results.append(Result(f"HTTP {name}, CPU p99", "ms", _percentile(milliseconds, 99)))
    return results


def _percentile(values: list[float], percent: int) -> float:
    if len(values) < 2:  # noqa: PLR2004
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


if __name__ == "__main__":
    sys.exit(main())
