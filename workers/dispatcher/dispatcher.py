"""The dispatcher: starts attempts of queued jobs on runners, and watches both across restarts."""

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from service.access import usage
from service.errors import DatabaseUnavailable, Unavailable
from service.execution import runners, warm_pool
from service.jobs import retention
from service.log import ids_of_attempt
from service.notifications import deliveries
from service.resources import ResourceBundle
from service.scheduling import admission, cluster_state, dispatchers, leases
from service.scheduling.leases import Claim
from service.settings import Settings
from service.storage.changes import ChangeKind, ChangeListener
from service.storage.database import Database, Session
from service.supervision import start_supervised
from workers.cluster.ray_jobs import ClusterResources
from workers.dispatcher.attempt_watcher import AttemptWatcher
from workers.dispatcher.demand_publisher import DemandPublisher
from workers.dispatcher.driver_kind import DriverKind
from workers.dispatcher.growth_watcher import GrowthWatcher
from workers.dispatcher.reconciler import Cluster, RayJobReconciler
from workers.dispatcher.runner_kind import RunnerKind

log = structlog.get_logger()

# While a runner drains, a job may wait for its resources.
_DRAIN_POLL = timedelta(seconds=0.2)
_MAX_CLOCK_JUMP_SECONDS = 5.0
_RETENTION_INTERVAL = timedelta(minutes=10)


class Dispatcher:
    """One process is enough; several share the work. `now` is the clock, UTC."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        cluster: Cluster,
        *,
        now: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`monotonic`: seconds of a clock that stops while the machine is suspended."""
        self._settings = settings
        self._database = database
        self._cluster = cluster
        self._now = now
        self._monotonic = monotonic
        self._clock_difference = self._read_clock_difference()
        self.owner = f"{socket.gethostname()[:30]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._runners = RayJobReconciler(
            RunnerKind(settings, cluster), settings, database, cluster, owner=self.owner, now=now
        )
        self._drivers = RayJobReconciler(
            DriverKind(settings), settings, database, cluster, owner=self.owner, now=now
        )
        self._watcher = AttemptWatcher(settings, database, cluster, self._runners, now=now)
        self._growth = GrowthWatcher(settings, database, now=now)
        self._demand = DemandPublisher(settings, database, cluster, owner=self.owner, now=now)
        self._last_warning: str | None = None
        self._round_at: datetime | None = None
        self._next_reconciliation = now()
        self._next_retention = now()
        # Records that had expired by then are deleted; None: not known yet.
        self._swept_until: datetime | None = None

    def run(self, stopping: threading.Event) -> None:
        """Runs rounds until `stopping` is set. Retries while a dependency is unavailable."""
        heartbeat = start_supervised(
            lambda: self._send_heartbeat(stopping), name="heartbeat", stopping=stopping
        )
        changes = self._database.listen(ChangeKind.STATE)
        log.info("dispatcher started", owner=self.owner, ray_url=self._settings.ray_url)
        try:
            while not stopping.is_set():
                wait_seconds = self._settings.poll_interval_seconds
                try:
                    wait_seconds = min(wait_seconds, self.run_round())
                    self._last_warning = None
                    self._round_at = self._now()
                except Unavailable as error:
                    self._watcher.reset_silence()
                    self._next_reconciliation = self._now()
                    self._warn_once(error)
                except Exception:
                    # The one place that catches everything: one bad row must not stop the queue.
                    log.exception("round failed")
                    stopping.wait(self._settings.poll_interval_seconds)
                self._wait_for_change(changes, stopping, wait_seconds)
        finally:
            stopping.set()
            heartbeat.join()
            changes.close()
            self._release_leases()

    def run_round(self) -> float:
        """Reconciles where that is due, and starts what fits. Returns seconds until the next round.

        Every state change in the database ends the wait for a round. Reconciling costs two
        requests to Ray, so it has its own interval; a look at the queue costs one query.
        """
        if self._now() >= self._next_reconciliation:
            self._reconcile()
        while len(self._claim()) == admission.MAX_CLAIMS:
            pass  # more of them may fit
        self._runners.submit_startable()
        self._drivers.submit_startable()
        now = self._now()
        with self._database.reading() as session:
            retry_at = admission.find_next_retry_at(session, now=now)
            is_any_draining = runners.is_any_draining(session)
        if is_any_draining:
            self._next_reconciliation = min(self._next_reconciliation, now + _DRAIN_POLL)
        next_round = min(self._next_reconciliation, retry_at or self._next_reconciliation)
        return max(0.0, (next_round - now).total_seconds())

    def _reconcile(self) -> None:
        """Reads Ray's state first and the database second, then acts on the differences."""
        self._detect_clock_jump()
        ray_jobs = {job.submission_id: job for job in self._cluster.list_jobs()}
        resources = self._cluster.read_resources()
        now = self._now()
        with self._database.transaction() as session:
            self._record_cluster(session, resources, now=now)
            taken_over = leases.take_over_expired(
                session, owner=self.owner, now=now, lease_seconds=self._settings.lease_seconds
            )
        for attempt in taken_over:
            log.info(
                "attempt taken over",
                fencing_token=attempt.fencing_token,
                **ids_of_attempt(attempt.id),
            )
        with self._database.reading() as session:
            owned = leases.list_owned(session, owner=self.owner)
            has_shrunk = cluster_state.has_shrunk(session)
        active_runners = self._runners.list_active()
        lost_runners = {
            runner.id: ray_jobs.get(runner.id)
            for runner in active_runners
            if self._runners.is_lost(runner, ray_jobs)
        }
        self._watcher.check_all(owned, lost_runners, has_shrunk=has_shrunk)
        self._runners.reconcile(active_runners, ray_jobs)
        self._growth.check()
        self._reconcile_warm_pool()
        self._drivers.reconcile(self._drivers.list_active(), ray_jobs)
        if self._settings.scalable_nodes:
            self._demand.publish(ray_jobs)
        self._delete_expired_records()
        self._next_reconciliation = self._now() + timedelta(
            seconds=self._settings.poll_interval_seconds
        )

    def _detect_clock_jump(self) -> None:
        """Counts silence and deadlines anew where the clock and the monotonic one disagree.

        The machine was suspended, with its training processes, or the clock was set.
        """
        difference = self._read_clock_difference()
        jump_seconds = difference - self._clock_difference
        self._clock_difference = difference
        if abs(jump_seconds) > _MAX_CLOCK_JUMP_SECONDS:
            log.warning("the clock has jumped, deadlines count anew", seconds=jump_seconds)
            self._watcher.extend_deadlines()
            self._runners.extend_deadlines()
            self._drivers.extend_deadlines()

    def _read_clock_difference(self) -> float:
        return self._now().timestamp() - self._monotonic()

    def _record_cluster(
        self, session: Session, resources: ClusterResources, *, now: datetime
    ) -> None:
        """What the nodes have, or less in total where the settings say so."""
        capacity = ResourceBundle(
            cpus=_limit(resources.num_cpus, self._settings.max_cpus),
            gpus=_limit(resources.num_gpus, self._settings.max_gpus),
        )
        nodes = [ResourceBundle(cpus=node.num_cpus, gpus=node.num_gpus) for node in resources.nodes]
        scalable_nodes = [
            ResourceBundle(cpus=scalable.cpus, gpus=scalable.gpus)
            for scalable in self._settings.scalable_nodes
            for _ in range(scalable.count)
        ]
        # Without an autoscaler, a cluster without nodes is starting, and its size is not known yet.
        if capacity.cpus > 0 or scalable_nodes:
            cluster_state.record_cluster(
                session, capacity, nodes=nodes, scalable_nodes=scalable_nodes, now=now
            )

    def _delete_expired_records(self) -> None:
        """Those of some jobs in each round, until nothing is left for a while."""
        now = self._now()
        if now < self._next_retention:
            return
        keep = self._settings.record_retention
        with self._database.reading() as session:
            expired = retention.find_expired(session, keep, since=self._swept_until, now=now)
        with self._database.transaction() as session:
            retention.delete_expired(session, expired)
            deliveries.delete_old_deliveries(session, now=now)
            usage.delete_old(session, now=now)
        if expired.num_jobs == 0:
            self._swept_until = now
            self._next_retention = now + _RETENTION_INTERVAL

    def _reconcile_warm_pool(self) -> None:
        with self._database.transaction() as session:
            capacity = cluster_state.lock_cluster(session)
            if capacity is not None:
                warm_pool.reconcile(
                    session,
                    capacity,
                    target=self._settings.warm_runners,
                    default_num_workers=self._settings.warm_runner_workers,
                    max_attempts=self._settings.attempts_per_runner,
                    now=self._now(),
                )

    def _claim(self) -> list[Claim]:
        with self._database.reading() as session:
            if not admission.is_any_eligible(session, now=self._now()):
                return []
        with self._database.transaction() as session:
            claims = admission.claim_jobs(
                session,
                owner=self.owner,
                now=self._now(),
                lease_seconds=self._settings.lease_seconds,
                data_dir=self._settings.data_dir,
                attempts_per_runner=self._settings.attempts_per_runner,
            )
        for claim in claims:
            log.info("job claimed", runner_id=claim.runner_id, **ids_of_attempt(claim.attempt_id))
        return claims

    def _wait_for_change(
        self, changes: ChangeListener, stopping: threading.Event, seconds: float
    ) -> None:
        try:
            changes.wait(seconds)
        except DatabaseUnavailable as error:
            self._warn_once(error)
            stopping.wait(self._settings.poll_interval_seconds)

    def _warn_once(self, error: Unavailable) -> None:
        """An outage is one line in the log, not one a second."""
        if self._last_warning != error.code:
            log.warning("dependency unavailable, retrying", dependency=error.code, error=str(error))
        self._last_warning = error.code

    def _send_heartbeat(self, stopping: threading.Event) -> None:
        """In a thread of its own, so that a slow cluster does not cost the leases."""
        if stopping.wait(self._settings.lease_seconds / 3):
            return
        now = self._now()
        with self._database.transaction() as session:
            leases.renew_leases(
                session,
                owner=self.owner,
                now=now,
                lease_seconds=self._settings.lease_seconds,
            )
            dispatchers.record_heartbeat(session, self.owner, round_at=self._round_at, now=now)

    def _release_leases(self) -> None:
        try:
            with self._database.transaction() as session:
                leases.release_leases(session, owner=self.owner, now=self._now())
                dispatchers.remove(session, self.owner)
        except DatabaseUnavailable as error:
            log.warning("cannot release leases; they expire", error=str(error))


def _limit(number: int, limit: int | None) -> int:
    return number if limit is None else min(number, limit)
