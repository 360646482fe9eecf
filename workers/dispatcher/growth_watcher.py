"""Resizes elastic jobs for which more workers have been free for a while."""

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from service.log import ids_of_attempt
from service.scheduling import cluster_state, growth
from service.scheduling.growth import Growth
from service.settings import Settings
from service.storage.database import Database

log = structlog.get_logger()

# Of the time for which more workers must be free.
_CHECKS = 10
# Nodes that come and go cost at most one restart in 32 times that time.
_MAX_DOUBLINGS = 5


class GrowthWatcher:
    """What it has seen is lost with the process: then the time counts anew.

    Several dispatchers watch the same jobs, and resize one under the lock of the cluster's row.
    `now` is the clock, UTC.
    """

    def __init__(
        self, settings: Settings, database: Database, *, now: Callable[[], datetime]
    ) -> None:
        self._after = timedelta(seconds=settings.grow_after_seconds)
        self._data_dir = settings.data_dir
        self._database = database
        self._now = now
        self._next_at = now()
        # By attempt.
        self._growable_since: dict[str, datetime] = {}

    def check(self) -> None:
        now = self._now()
        if now < self._next_at:
            return
        self._next_at = now + self._after / _CHECKS
        found = self._list_growths(now)
        self._growable_since = {
            item.attempt_id: self._growable_since.get(item.attempt_id, now) for item in found
        }
        for item in found:
            if now >= self._growable_since[item.attempt_id] + self._wait_of(item):
                self._request(item, now)
                return

    def _wait_of(self, item: Growth) -> timedelta:
        return self._after * 2.0 ** min(item.infra_restarts, _MAX_DOUBLINGS)

    def _list_growths(self, now: datetime) -> list[Growth]:
        with self._database.reading() as session:
            if not growth.is_any_growable(session):
                return []
            return growth.list_growths(
                session,
                min_seconds=self._after.total_seconds(),
                data_dir=self._data_dir,
                now=now,
            )

    def _request(self, item: Growth, now: datetime) -> None:
        with self._database.transaction() as session:
            # Another dispatcher decides after this one.
            cluster_state.lock_cluster(session)
            if not growth.request_growth(session, item, now=now):
                return
        log.info(
            "job resized",
            num_workers=item.num_workers,
            larger=item.larger,
            **ids_of_attempt(item.attempt_id),
        )
