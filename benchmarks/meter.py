"""CPU time and queries of kinds of operations in one process, and of its database server."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil
from sqlalchemy import event

from service.storage.database import Database


@dataclass
class Cost:
    """`cpu_seconds`: of this process, the operations inside others left out."""

    calls: int = 0
    cpu_seconds: float = 0.0
    queries: int = 0


@dataclass(frozen=True)
class Reading:
    """Since the process started: seconds of the clock and of CPUs, and the queries."""

    seconds: float
    cpu_seconds: float
    server_seconds: float
    queries: int
    costs: dict[str, Cost] = field(default_factory=dict)


class Meter:
    """`server_pid`: of PostgreSQL, whose sessions are its children; None: SQLite."""

    def __init__(self, database: Database, *, server_pid: int | None) -> None:
        self._server = None if server_pid is None else psutil.Process(server_pid)
        self._costs: defaultdict[str, Cost] = defaultdict(Cost)
        self._inner_cpu: list[float] = []
        self._queries = 0
        event.listen(database.engine, "before_cursor_execute", self._count)

    def read(self) -> Reading:
        costs = {name: Cost(**vars(cost)) for name, cost in self._costs.items()}
        return Reading(
            time.monotonic(), time.process_time(), self._read_server(), self._queries, costs
        )

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Also inside another operation, which then does not count this one's time."""
        started, queries = time.process_time(), self._queries
        self._inner_cpu.append(0.0)
        try:
            yield
        finally:
            elapsed = time.process_time() - started
            cost = self._costs[name]
            cost.calls += 1
            cost.cpu_seconds += elapsed - self._inner_cpu.pop()
            cost.queries += self._queries - queries
            if self._inner_cpu:
                self._inner_cpu[-1] += elapsed

    def _count(self, *_: object) -> None:
        self._queries += 1

    def _read_server(self) -> float:
        if self._server is None:
            return 0.0
        own = self._server.cpu_times()
        # Of sessions that have ended, too.
        total = own.user + own.system + own.children_user + own.children_system
        for child in self._server.children(recursive=True):
            times = child.cpu_times()
            total += times.user + times.system
        return float(total)
