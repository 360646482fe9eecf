"""The drivers of searches in the cluster: started where one is wanted, hurried, cleared away."""

from collections.abc import Mapping
from datetime import timedelta

import structlog

from service.errors import Unavailable
from service.searches import drivers
from service.searches.drivers import DriverSubmission
from service.storage.tables import SearchRow
from workers.cluster import ray_jobs
from workers.cluster.ray_jobs import ClusterJob
from workers.dispatcher.reconciler import LISTING_DELAY, RayJobReconciler

log = structlog.get_logger()

# A shell command, the same for every search: what differs goes into the environment.
ENTRYPOINT = "python -m workers search"


class DriverReconciler(RayJobReconciler):
    """Several dispatchers may see to the drivers."""

    def start_due(self) -> None:
        """Gives the cluster the drivers that are missing. They hold no CPU: there is room."""
        with self._database.reading() as session:
            if not drivers.is_any_to_start(session, now=self._now()):
                return
        self._start(self._due())

    def tidy(self, found: Mapping[str, ClusterJob]) -> None:
        """Notes the dead, ends the late, and tells the cluster again what it did not hear."""
        with self._database.reading() as session:
            there = drivers.list_active(session)
        for search in there:
            name = drivers.driver_id(search)
            try:
                self._look_after(search, found.get(name))
            except Unavailable:
                raise
            except Exception:
                # A row that this version cannot read must not stop the queue, nor other searches.
                log.exception("driver cannot be looked after", driver_id=name)
        if there:
            self._start(self._due())

    def _look_after(self, search: SearchRow, cluster_job: ClusterJob | None) -> None:
        if self._is_lost(search, cluster_job):
            self._clear_away(search, cluster_job)
        elif self._is_late(search):
            self._ask_to_stop(drivers.driver_id(search))

    def _due(self) -> list[DriverSubmission]:
        with self._database.transaction() as session:
            return drivers.take_startable(session, now=self._now())

    def _start(self, starts: list[DriverSubmission]) -> None:
        for start in starts:
            env_vars = ray_jobs.driver_env(
                api_url=self._settings.api_url,
                driver_id=start.driver_id,
                token=start.secret,
                work_path=self._settings.work_dir,
            )
            self._cluster.submit(
                start.driver_id, entrypoint=ENTRYPOINT, env_vars=env_vars, metadata=self._signature
            )
            with self._database.transaction() as session:
                drivers.mark_submitted(
                    session, start.search_id, number=start.number, now=self._now()
                )
            log.info("driver submitted", driver_id=start.driver_id)

    def _is_lost(self, search: SearchRow, cluster_job: ClusterJob | None) -> bool:
        if cluster_job is not None:
            return cluster_job.state.is_final
        submitted_at = search.driver_submitted_at
        return submitted_at is not None and self._now() > submitted_at + LISTING_DELAY

    def _is_late(self, search: SearchRow) -> bool:
        """Whether it should have left by now, or said a word."""
        now = self._now()
        if search.driver_draining_since is not None:
            patience = timedelta(seconds=self._settings.termination_grace_seconds)
            return now > search.driver_draining_since + patience
        if search.driver_submitted_at is None:
            return False
        if search.driver_heartbeat_at is None:
            patience = timedelta(seconds=self._settings.start_timeout_seconds)
            return now > search.driver_submitted_at + patience
        # It says a word every few seconds, unless the API is away: then the next one waits for it.
        patience = timedelta(seconds=2 * self._settings.heartbeat_timeout_seconds)
        return now > search.driver_heartbeat_at + patience

    def _clear_away(self, search: SearchRow, cluster_job: ClusterJob | None) -> None:
        name = drivers.driver_id(search)
        message = "the cluster does not know it any more"
        if cluster_job is not None:
            message = cluster_job.message
            # Ray slows down with the number of jobs that it remembers (ray-project/ray#37894).
            self._cluster.delete(name)
        with self._database.transaction() as session:
            drivers.mark_terminated(
                session, search.id, number=search.driver_number, message=message, now=self._now()
            )
        self._asked_to_stop.pop(name, None)
        log.info("driver is gone", driver_id=name, message=message[:200])
