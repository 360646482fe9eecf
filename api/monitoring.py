"""The metrics of the service in Prometheus' text format.

What the database knows is read when Prometheus asks, so it is the same from each API process, and
costs nothing in between. Names with `resnetd_api_` and `process_` are of the process.
"""

import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from api.client_versions import VERSION
from api.request_meter import RequestMeter
from service.scheduling import monitoring
from service.scheduling.monitoring import AttemptTimes, ServiceState, StoredBytes
from service.scheduling.queue_status import WaitReason
from service.settings import Settings
from service.states import AttemptState, RayJobState, Reason
from service.storage.artifacts import ArtifactStore
from service.storage.database import ConnectionCounts, Database, Session

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4

# A sum over all checkpoints is too expensive for each scrape.
_STORED_BYTES_SECONDS = 300.0
# A commit may become visible later than the time that it records.
_COMMIT_DELAY = timedelta(seconds=60)
# Bounds the first scrape after a long time without one.
_MAX_GAP = timedelta(hours=1)
_LAUNCH_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0)
_NO_BLAME = "none"

# Otherwise each counter has a second series with the time of its creation.
disable_created_metrics()  # type: ignore[no-untyped-call]


class ServiceMonitor:
    """Of one API process. Any number of Prometheus servers may scrape it at once."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        artifacts: ArtifactStore,
        meter: RequestMeter,
        *,
        started_at: datetime,
    ) -> None:
        self._settings = settings
        self._database = database
        self._artifacts = artifacts
        self._meter = meter
        self._attempts = AttemptCounters(started_at)
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        self._stored: StoredBytes | None = None
        self._stored_until = 0.0

    def render(self, session: Session, *, now: datetime) -> bytes:
        """All metrics, in a number of queries that no number of rows changes."""
        held = self._attempts.update(session, now=now)
        state = monitoring.read_state(session, data_dir=self._settings.data_dir, now=now)
        families = [
            *_describe_queue(state, now=now),
            *_describe_attempts(held),
            *_describe_cluster(state),
            *_describe_dispatchers(state),
            *_describe_stored(self._count_stored_bytes(session)),
            *_describe_disks(self._list_directories()),
            *_describe_connections(self._database.count_connections()),
            _describe_build(),
        ]
        registries = (self._attempts.registry, self._meter.registry, self._process)
        return generate_latest(_Scrape(families, registries))

    def _count_stored_bytes(self, session: Session) -> StoredBytes:
        """At most every five minutes."""
        if self._stored is None or time.monotonic() >= self._stored_until:
            self._stored = monitoring.count_stored_bytes(
                session, self._database, data_dir=self._settings.data_dir
            )
            self._stored_until = time.monotonic() + _STORED_BYTES_SECONDS
        return self._stored

    def _list_directories(self) -> dict[str, Path]:
        """What this process has on disks of its own machine, by name."""
        found = {"data": self._settings.data_dir}
        if self._database.directory is not None:
            found["database"] = self._database.directory
        if self._artifacts.directory is not None:
            found["artifacts"] = self._artifacts.directory
        return found


class AttemptCounters:
    """Counts attempts since the process started, from what changed between two scrapes.

    A counter over all rows would shrink when jobs are deleted, and cost more with each attempt.
    """

    def __init__(self, started_at: datetime) -> None:
        self.registry = CollectorRegistry()
        self._started_at = started_at
        self._until = started_at
        self._known: dict[str, AttemptTimes] = {}
        self._lock = threading.Lock()
        self._started = Counter(
            "resnetd_attempts_started",
            "Attempts that were claimed since this API process started",
            registry=self.registry,
        )
        self._finished = Counter(
            "resnetd_attempts_finished",
            "Attempts that ended since this API process started, by reason and who caused it",
            ["reason", "blame"],
            registry=self.registry,
        )
        self._launch_seconds = Histogram(
            "resnetd_attempt_launch_seconds",
            "Time from the claim of an attempt to the end of its first step, on a runner that "
            "was submitted before (waiting) or for it (new)",
            ["runner"],
            buckets=_LAUNCH_BUCKETS,
            registry=self.registry,
        )
        # A rate needs the 0 before the first.
        for reason in Reason:
            self._finished.labels(reason, reason.blame or _NO_BLAME)
        for runner in ("waiting", "new"):
            self._launch_seconds.labels(runner)

    def update(self, session: Session, *, now: datetime) -> list[AttemptTimes]:
        """Counts what is new. Returns the attempts that have not ended.

        The first to read in its transaction: so what two scrapes at once see has the order in which
        they count.
        """
        with self._lock:
            since = max(min(self._until, now) - _COMMIT_DELAY, now - _MAX_GAP)
            found = {row.id: row for row in monitoring.list_attempts(session, since=since)}
            for row in found.values():
                self._count(row, self._known.get(row.id))
            self._known = found
            self._until = now
        return [row for row in found.values() if row.ended_at is None]

    def _count(self, row: AttemptTimes, known: AttemptTimes | None) -> None:
        """`known`: the attempt as the last scrape found it."""
        if known is None and row.created_at >= self._started_at:
            self._started.inc()
        had_first_step = known is not None and known.first_step_at is not None
        if row.first_step_at is not None and not had_first_step:
            # By the clock of the training's machine.
            seconds = max(0.0, (row.first_step_at - row.created_at).total_seconds())
            if row.first_step_at >= self._started_at:
                runner = "waiting" if row.was_runner_waiting else "new"
                self._launch_seconds.labels(runner).observe(seconds)
        had_ended = known is not None and known.ended_at is not None
        if row.ended_at is not None and not had_ended and row.ended_at >= self._started_at:
            assert row.reason is not None, "ended"
            self._finished.labels(row.reason, row.reason.blame or _NO_BLAME).inc()


class _Scrape(Collector):
    def __init__(self, families: Iterable[Metric], registries: Iterable[CollectorRegistry]) -> None:
        self._families = families
        self._registries = registries

    def collect(self) -> Iterator[Metric]:
        yield from self._families
        for registry in self._registries:
            yield from registry.collect()


def _make_gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"resnetd_{name}", text, value=value)


def _make_gauges(
    name: str, text: str, labels: tuple[str, ...], values: dict[tuple[str, ...], float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"resnetd_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _describe_queue(state: ServiceState, *, now: datetime) -> Iterator[Metric]:
    queue = state.queue
    yield _make_gauges(
        "queue_waiting_jobs",
        "Jobs that wait, by reason",
        ("reason",),
        {(reason,): queue.reasons[reason] for reason in WaitReason},
    )
    oldest_at = queue.oldest_at or now
    yield _make_gauge(
        "queue_oldest_wait_seconds",
        "Time since the submission of the oldest job that may start and has not run yet",
        max(0.0, (now - oldest_at).total_seconds()),
    )
    groups = queue.waiting.keys() | queue.running.keys()
    yield _make_gauges(
        "group_jobs",
        f"Jobs by group of people, of {monitoring.MAX_GROUPS} groups and all others as "
        f"{monitoring.OTHER_GROUPS}",
        ("group", "state"),
        {
            (group, name): jobs[group]
            for group in sorted(groups)
            for name, jobs in (("waiting", queue.waiting), ("running", queue.running))
        },
    )


def _describe_attempts(held: list[AttemptTimes]) -> Iterator[Metric]:
    states = (AttemptState.STARTING, AttemptState.RUNNING)
    yield _make_gauges(
        "attempts",
        "Attempts that have not ended, by state",
        ("state",),
        {(state,): sum(row.state is state for row in held) for state in states},
    )


def _describe_cluster(state: ServiceState) -> Iterator[Metric]:
    cluster, used = state.cluster, state.reserved
    cpus, gpus = (cluster.capacity.cpus, cluster.capacity.gpus) if cluster else (0, 0.0)
    yield _make_gauges(
        "cluster_cpus",
        "CPUs that jobs may use; below zero are free where the cluster has shrunk",
        ("use",),
        {("free",): cpus - used.cpus, ("used",): used.cpus},
    )
    yield _make_gauges(
        "cluster_gpus",
        "GPUs that jobs may use",
        ("use",),
        {("free",): gpus - used.gpus, ("used",): used.gpus},
    )
    num_nodes = (len(cluster.nodes) or min(1, int(cluster.capacity.cpus))) if cluster else 0
    yield _make_gauge("cluster_nodes", "Nodes of the cluster", num_nodes)
    yield _make_gauge(
        "cluster_seen_timestamp_seconds",
        "When a dispatcher last saw the cluster, at most ten seconds late; 0: never",
        cluster.seen_at.timestamp() if cluster else 0.0,
    )
    yield _make_gauges(
        "runners",
        "Runners that have not terminated, by state",
        ("state",),
        {
            (runner_state,): state.runners[runner_state]
            for runner_state in RayJobState
            if runner_state is not RayJobState.TERMINATED
        },
    )
    yield _make_gauge("idle_runners", "Runners that wait for an attempt", state.idle_runners)


def _describe_dispatchers(state: ServiceState) -> Iterator[Metric]:
    found = state.dispatchers
    yield _make_gauge(
        "dispatchers", "Dispatchers with a heartbeat in the last minute", found.running
    )
    yield _make_gauge(
        "dispatcher_heartbeat_timestamp_seconds",
        "When the last heartbeat of a dispatcher was recorded, at most ten seconds late; 0: never",
        found.seen_at.timestamp() if found.seen_at else 0.0,
    )
    yield _make_gauge(
        "dispatcher_round_timestamp_seconds",
        "When a dispatcher last ended a round without an error, as of its heartbeat; 0: never",
        found.round_at.timestamp() if found.round_at else 0.0,
    )


def _describe_stored(stored: StoredBytes) -> Iterator[Metric]:
    yield _make_gauges(
        "stored_bytes",
        "Bytes of checkpoints with their exports, of uploaded datasets and of the database, at "
        "most five minutes late",
        ("kind",),
        {
            ("checkpoints",): stored.checkpoints,
            ("datasets",): stored.datasets,
            ("database",): stored.database,
        },
    )


def _describe_disks(directories: dict[str, Path]) -> Iterator[Metric]:
    free: dict[tuple[str, ...], float] = {}
    total: dict[tuple[str, ...], float] = {}
    for name, path in directories.items():
        with suppress(OSError):  # a process without uploads may not have it
            usage = shutil.disk_usage(path)
            free[name,], total[name,] = usage.free, usage.total
    labels = ("directory",)
    yield _make_gauges("disk_free_bytes", "Free bytes of the disk of a directory", labels, free)
    yield _make_gauges("disk_size_bytes", "Size of the disk of a directory", labels, total)


def _describe_connections(counts: ConnectionCounts) -> Iterator[Metric]:
    yield _make_gauges(
        "api_database_connections",
        "Connections of this process to the database",
        ("state",),
        {("in-use",): counts.in_use, ("idle",): counts.idle},
    )
    yield _make_gauge(
        "api_database_connections_limit",
        "Connections of this process above which requests wait",
        counts.limit,
    )


def _describe_build() -> Metric:
    return InfoMetricFamily("resnetd_build", "Version of this process", {"version": VERSION})
