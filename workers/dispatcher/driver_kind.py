"""What the reconciler needs to know about the drivers of searches."""

from datetime import datetime, timedelta

from service.execution.ray_job_lifecycle import RayJobSubmission
from service.searches import drivers
from service.settings import Settings
from service.storage.database import Session
from service.storage.tables import DriverRow
from workers.cluster import ray_jobs
from workers.dispatcher.reconciler import find_transition_deadline


class DriverKind:
    name = "driver"
    table = DriverRow
    entrypoint = "python -m workers search"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def env_vars(self, submission: RayJobSubmission[DriverRow]) -> dict[str, str]:
        return ray_jobs.driver_env(
            api_url=self._settings.api_url,
            driver_id=submission.id,
            token=submission.secret,
            work_dir=self._settings.work_dir,
            log_format=self._settings.log_format,
        )

    def is_any_startable(self, session: Session, *, now: datetime) -> bool:
        return drivers.is_any_startable(session, now=now)

    def take_startable(
        self, session: Session, *, now: datetime
    ) -> list[RayJobSubmission[DriverRow]]:
        """A driver reserves no CPU, so that each fits."""
        return drivers.take_startable(session, now=now)

    def mark_submitted(self, session: Session, row_id: str, *, now: datetime) -> None:
        drivers.mark_submitted(session, row_id, now=now)

    def find_deadline(self, row: DriverRow, *, submitted_at: datetime) -> datetime | None:
        deadline = find_transition_deadline(row, self._settings, submitted_at=submitted_at)
        if deadline is not None or row.last_seen_at is None:
            return deadline
        # It calls every few seconds. While the API is unavailable, its successor would also wait.
        return row.last_seen_at + timedelta(seconds=2 * self._settings.heartbeat_timeout_seconds)

    def is_busy(self, session: Session, row_id: str) -> bool:
        del session, row_id
        return False

    def prepare_stop(self, session: Session, row_id: str, *, now: datetime) -> None:
        """No change: a driver that was not drained is replaced, and counts as a failure."""

    def mark_terminated(
        self, session: Session, row_id: str, *, message: str, now: datetime
    ) -> None:
        drivers.mark_terminated(session, row_id, message=message, now=now)
