"""What the reconciler needs to know about runners."""

from datetime import datetime

from service.execution import runners
from service.execution.ray_job_lifecycle import RayJobSubmission
from service.scheduling import cluster_state
from service.settings import Settings
from service.storage.database import Session
from service.storage.tables import RunnerRow
from workers.cluster import ray_jobs
from workers.dispatcher.reconciler import Cluster, find_transition_deadline


class RunnerKind:
    name = "runner"
    table = RunnerRow
    entrypoint = "python -m workers runner"

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._settings = settings
        self._cluster = cluster

    def env_vars(self, submission: RayJobSubmission[RunnerRow]) -> dict[str, str]:
        return ray_jobs.runner_env(
            api_url=self._settings.api_url,
            runner_id=submission.id,
            worker_group=runners.worker_group_of(submission.row),
            token=submission.secret,
            data_dir=self._settings.data_dir,
            work_dir=self._settings.work_dir,
            num_nodes=len(self._cluster.read_resources().nodes),
            log_format=self._settings.log_format,
        )

    def is_any_startable(self, session: Session, *, now: datetime) -> bool:
        del now
        return runners.is_any_startable(session)

    def take_startable(
        self, session: Session, *, now: datetime
    ) -> list[RayJobSubmission[RunnerRow]]:
        capacity = cluster_state.lock_cluster(session)
        return [] if capacity is None else runners.take_startable(session, capacity, now=now)

    def mark_submitted(self, session: Session, row_id: str, *, now: datetime) -> None:
        runners.mark_submitted(session, row_id, now=now)

    def find_deadline(self, row: RunnerRow, *, submitted_at: datetime) -> datetime | None:
        if row.attempt_id is not None:
            return None  # the attempt is watched instead
        return find_transition_deadline(row, self._settings, submitted_at=submitted_at)

    def is_busy(self, session: Session, row_id: str) -> bool:
        """While an attempt is active, its own dispatcher ends that first."""
        return runners.has_active_attempt(session, row_id)

    def prepare_stop(self, session: Session, row_id: str, *, now: datetime) -> None:
        """Drains the runner, so that it gets no attempt while it stops."""
        runners.drain_runner(session, row_id, now=now)

    def mark_terminated(
        self, session: Session, row_id: str, *, message: str, now: datetime
    ) -> None:
        del message
        runners.mark_terminated(session, row_id, now=now)
