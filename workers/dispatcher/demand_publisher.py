"""Publishes the demand for workers: Ray's autoscaler adds nodes before admission needs them.

The dispatcher has no connection to Ray but HTTP, and the autoscaler takes requests over none: a
short Ray job makes the request, on the head. Its id names the demand. So Ray's list of jobs says
what was published last, also after a restart of the head, which forgets jobs and request, and with
several dispatchers.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import structlog

from service.scheduling import demand
from service.settings import Settings
from service.storage.database import Database
from workers.cluster import ray_jobs
from workers.cluster.ray_jobs import ClusterJob, ClusterJobState
from workers.dispatcher.reconciler import Cluster

log = structlog.get_logger()

ID_PREFIX = "demand-"
_ENTRYPOINT = "python -m workers request-nodes"
# Each request is a process that imports Ray; the autoscaler looks every five seconds.
_INTERVAL = timedelta(seconds=10)


class DemandPublisher:
    """Each step may be repeated: by this dispatcher after an error, or by another one."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        cluster: Cluster,
        *,
        owner: str,
        now: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._database = database
        self._cluster = cluster
        self._metadata = {"by": owner, "api": settings.api_url}
        self._now = now
        self._next_at = now()

    def publish(self, found: Mapping[str, ClusterJob]) -> None:
        """Submits a request where the newest one differs. `found`: Ray's jobs, just read."""
        now = self._now()
        requests = [job for id_, job in found.items() if id_.startswith(ID_PREFIX)]
        if now < self._next_at or any(not job.state.is_final for job in requests):
            return
        with self._database.reading() as session:
            wanted = demand.read_demand(session, data_dir=self._settings.data_dir, now=now)
        listed = sorted([worker.cpus, worker.gpus, number] for worker, number in wanted.items())
        written = json.dumps(listed)
        wanted_id = ID_PREFIX + hashlib.sha256(written.encode()).hexdigest()[:16]
        for job in requests:
            if job.submission_id == wanted_id and job.state is ClusterJobState.SUCCEEDED:
                continue
            if job.state is ClusterJobState.FAILED:
                log.warning("cannot request nodes from Ray", error=job.message[-500:])
            self._cluster.delete(job.submission_id)
            found = {id_: other for id_, other in found.items() if id_ != job.submission_id}
        if wanted_id in found:
            return
        self._cluster.submit(
            wanted_id,
            entrypoint=_ENTRYPOINT,
            env_vars=ray_jobs.node_request_env(written),
            metadata=self._metadata,
        )
        self._next_at = now + _INTERVAL
        log.info("nodes requested", workers=listed)
