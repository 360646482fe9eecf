"""Reconciles the Ray jobs of one kind with their rows: submits, confirms, stops, deletes.

Every step may be repeated: by the same dispatcher after an error, or by another one.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Generic, Protocol, TypeVar

import structlog

from service.errors import ClusterUnavailable, Unavailable
from service.execution import ray_job_lifecycle
from service.execution.ray_job_lifecycle import RayJobSubmission
from service.settings import Settings
from service.states import RayJobState
from service.storage.database import Database, Session
from service.storage.tables import RayJobRow
from workers.cluster.ray_jobs import ClusterJob, ClusterResources

log = structlog.get_logger()

_STOP_INTERVAL = timedelta(seconds=10)
# A job may be submitted after Ray was asked for its list.
_LISTING_DELAY = timedelta(seconds=15)


class Cluster(Protocol):
    """What a dispatcher needs of Ray; each call may raise ClusterUnavailable."""

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
    def read_log_tail(
        self, submission_id: str, *, max_chars: int = ..., timeout_seconds: float = ...
    ) -> str: ...
    def read_resources(self) -> ClusterResources: ...


Row = TypeVar("Row", bound=RayJobRow)


class RayJobKind(Protocol[Row]):
    """How runners and drivers differ."""

    @property
    def name(self) -> str:
        """For logs and messages."""

    @property
    def table(self) -> type[Row]: ...

    @property
    def entrypoint(self) -> str:
        """A shell command, the same for all jobs of the kind: what differs is in `env_vars`."""

    def env_vars(self, submission: RayJobSubmission[Row]) -> dict[str, str]: ...

    def is_any_startable(self, session: Session, *, now: datetime) -> bool:
        """A look without a lock."""

    def take_startable(self, session: Session, *, now: datetime) -> list[RayJobSubmission[Row]]: ...

    def mark_submitted(self, session: Session, row_id: str, *, now: datetime) -> None: ...

    def find_deadline(self, row: Row, *, submitted_at: datetime) -> datetime | None:
        """When the job must have exited or called the API, or it is stopped; None: never."""

    def is_busy(self, session: Session, row_id: str) -> bool:
        """Whether it has work that must end first, whatever Ray says."""

    def prepare_stop(self, session: Session, row_id: str, *, now: datetime) -> None:
        """What the rows must say before Ray is asked to stop the job."""

    def mark_terminated(
        self, session: Session, row_id: str, *, message: str, now: datetime
    ) -> None: ...


def find_transition_deadline(
    row: RayJobRow, settings: Settings, *, submitted_at: datetime
) -> datetime | None:
    """When a job must have exited after a drain, or become ready; None for a ready one."""
    if row.state is RayJobState.DRAINING:
        since = row.draining_since or submitted_at
        return since + timedelta(seconds=settings.termination_grace_seconds)
    if row.ready_at is None:
        return submitted_at + timedelta(seconds=settings.start_timeout_seconds)
    return None


class RayJobReconciler(Generic[Row]):
    """Several dispatchers may reconcile the same jobs. `now` is the clock, UTC."""

    def __init__(
        self,
        kind: RayJobKind[Row],
        settings: Settings,
        database: Database,
        cluster: Cluster,
        *,
        owner: str,
        now: Callable[[], datetime],
    ) -> None:
        self._kind = kind
        self._settings = settings
        self._database = database
        self._cluster = cluster
        self._now = now
        self._stop_requested_at: dict[str, datetime] = {}
        # Before the clock jumped no process could meet a deadline; None: it has not.
        self._clock_jumped_at: datetime | None = None
        # For people who look at Ray's list of jobs; several services may share a cluster.
        self._metadata = {"by": owner, "api": settings.api_url}

    def extend_deadlines(self) -> None:
        """Stops no job before the heartbeat timeout: the clock has jumped."""
        self._clock_jumped_at = self._now()

    def submit_startable(self) -> None:
        """Submits the jobs that may start. ClusterUnavailable leaves the rest for another round."""
        with self._database.reading() as session:
            if not self._kind.is_any_startable(session, now=self._now()):
                return
        with self._database.transaction() as session:
            submissions = self._kind.take_startable(session, now=self._now())
        try:
            while submissions:
                env_vars = self._kind.env_vars(submissions[0])
                self._submit(submissions.pop(0), env_vars)
        except ClusterUnavailable:
            with self._database.transaction() as session:
                ray_job_lifecycle.revert_submissions(session, submissions)
            raise

    def list_active(self) -> list[Row]:
        """The rows of the jobs that Ray may have, oldest first."""
        with self._database.reading() as session:
            return ray_job_lifecycle.list_active(session, self._kind.table)

    def is_lost(self, row: Row, found: Mapping[str, ClusterJob]) -> bool:
        """Whether Ray no longer has the job. `found`: Ray's jobs, read before the row."""
        ray_job = found.get(row.id)
        if ray_job is not None:
            return ray_job.state.is_final
        if row.submitted_at is not None:
            return self._now() > row.submitted_at + _LISTING_DELAY
        # One that is starting is submitted again.
        is_draining = row.state is RayJobState.DRAINING
        return is_draining and ray_job_lifecycle.is_submission_lost(row, now=self._now())

    def reconcile(self, rows: list[Row], found: Mapping[str, ClusterJob]) -> None:
        """Confirms submissions, stops jobs that are late, deletes those that have ended."""
        for row in rows:
            try:
                self._reconcile_row(row, found)
            except Unavailable:
                raise
            except Exception:
                # A row that this version cannot read must not stop the queue, nor other jobs.
                log.exception("cannot reconcile Ray job", kind=self._kind.name, id=row.id)

    def stop(self, row_id: str) -> None:
        """Asks Ray to stop the job, again after a while if it is still called; not a busy one."""
        with self._database.reading() as session:
            if self._kind.is_busy(session, row_id):
                return
        now = self._now()
        with self._database.transaction() as session:
            self._kind.prepare_stop(session, row_id, now=now)
        requested_at = self._stop_requested_at.get(row_id)
        if requested_at is None or now >= requested_at + _STOP_INTERVAL:
            self._stop_requested_at[row_id] = now
            self._cluster.stop(row_id)

    def _submit(self, submission: RayJobSubmission[Row], env_vars: Mapping[str, str]) -> None:
        self._cluster.submit(
            submission.id,
            entrypoint=self._kind.entrypoint,
            env_vars=env_vars,
            metadata=self._metadata,
        )
        self._mark_submitted(submission.id)
        log.info("Ray job submitted", kind=self._kind.name, id=submission.id)

    def _reconcile_row(self, row: Row, found: Mapping[str, ClusterJob]) -> None:
        if self.is_lost(row, found):
            self._clear_away(row, found.get(row.id))
        elif row.submitted_at is not None:
            deadline = self._kind.find_deadline(row, submitted_at=row.submitted_at)
            if deadline is not None and self._now() > self._extend(deadline):
                self.stop(row.id)
        elif row.id in found:
            # The response to its submission was lost.
            self._mark_submitted(row.id)

    def _extend(self, deadline: datetime) -> datetime:
        if self._clock_jumped_at is None:
            return deadline
        timeout = timedelta(seconds=self._settings.heartbeat_timeout_seconds)
        return max(deadline, self._clock_jumped_at + timeout)

    def _mark_submitted(self, row_id: str) -> None:
        with self._database.transaction() as session:
            self._kind.mark_submitted(session, row_id, now=self._now())

    def _clear_away(self, row: Row, ray_job: ClusterJob | None) -> None:
        with self._database.reading() as session:
            if self._kind.is_busy(session, row.id):
                return
        # Ray slows down with the number of jobs that it remembers (ray-project/ray#37894).
        # Before the row: a terminated one is not reconciled again.
        self._cluster.delete(row.id)
        message = f"Ray no longer knows the {self._kind.name}"
        if ray_job is not None:
            message = ray_job.message
        with self._database.transaction() as session:
            self._kind.mark_terminated(session, row.id, message=message, now=self._now())
        self._stop_requested_at.pop(row.id, None)
        log.info("Ray job terminated", kind=self._kind.name, id=row.id, message=message[:200])
