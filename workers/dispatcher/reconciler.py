from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Protocol

from service.settings import Settings
from service.storage.database import Database
from workers.cluster.ray_jobs import ClusterJob, ClusterResources

_STOP_RETRY = timedelta(seconds=10)
# What was submitted this moment may not be in the list that was asked for before.
LISTING_DELAY = timedelta(seconds=15)


class Cluster(Protocol):
    """What dispatchers need of a cluster; ClusterUnavailable from each where it is away."""

    def submit(
        self,
        submission_id: str,
        *,
        entrypoint: str,
        env_vars: Mapping[str, str],
        metadata: Mapping[str, str],
    ) -> None: ...
    def list_jobs(self) -> list[ClusterJob]: ...
    def stop(self, submission_id: str) -> bool: ...
    def delete(self, submission_id: str) -> bool: ...
    def logs_tail(self, submission_id: str, *, max_chars: int = ...) -> str: ...
    def resources(self) -> ClusterResources: ...


class RayJobReconciler:
    """Who sees to Ray jobs of one kind: what each asks twice has the effect of once."""

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
        self._now = now
        self._asked_to_stop: dict[str, datetime] = {}
        # For whoever looks at the cluster's jobs, which may be of several services.
        self._signature = {"by": owner, "api": settings.api_url}

    def _ask_to_stop(self, submission_id: str) -> None:
        """Now and then again, as long as it is asked for."""
        now = self._now()
        asked_at = self._asked_to_stop.get(submission_id)
        if asked_at is None or now >= asked_at + _STOP_RETRY:
            self._asked_to_stop[submission_id] = now
            self._cluster.stop(submission_id)
