"""Watches the attempts that a dispatcher owns, and ends those that do not report their own end.

An attempt whose runner has ended in Ray's list, and which has not reported its end when the
database is read afterwards, will never report it.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import httpx
import structlog

from service.errors import ClusterUnavailable, LeaseLost, Unavailable
from service.execution import attempts
from service.log import about_attempt
from service.scheduling import leases
from service.scheduling.leases import OwnedAttempt
from service.settings import Settings
from service.states import AttemptState, Reason, StopReason
from service.storage.database import Database
from service.storage.tables import AttemptRow, JobRow, RunnerRow
from service.text import count_of
from workers.cluster.ray_jobs import ClusterJob
from workers.dispatcher.reconciler import Cluster, RayJobReconciler

log = structlog.get_logger()

_HEALTH_TIMEOUT_SECONDS = 3.0
_LOG_TAIL_CHARACTERS = 4_000
_MAX_START_DOUBLINGS = 3
_UNSTARTABLE = frozenset({Reason.START_TIMEOUT, Reason.CLUSTER_LOST})
# For the logs of all attempts that end in one round.
_LOGS_TIMEOUT_SECONDS = 10.0


class AttemptWatcher:
    """`now` is the clock, UTC."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        cluster: Cluster,
        runners: RayJobReconciler[RunnerRow],
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._database = database
        self._cluster = cluster
        self._runners = runners
        self._now = now
        # Since when the API could receive reports, as far as is known: earlier silence means
        # nothing. None while it cannot.
        self._api_up_since: datetime | None = None
        # Before the clock jumped no attempt could stop or report; None: it has not.
        self._clock_jumped_at: datetime | None = None
        self._has_shrunk = False

    def reset_silence(self) -> None:
        """Counts silence anew: what made Ray or the database unavailable may also stop reports."""
        self._api_up_since = None

    def extend_deadlines(self) -> None:
        """Counts all times anew: the clock has jumped."""
        self.reset_silence()
        self._clock_jumped_at = self._now()

    def check_all(
        self,
        owned: list[OwnedAttempt],
        lost_runners: Mapping[str, ClusterJob | None],
        *,
        has_shrunk: bool = False,
    ) -> None:
        """Ends attempts and stops runners where that is due.

        `lost_runners`: by id, the runners that Ray no longer has, with the job that it last listed.
        `has_shrunk`: attempts occupy more than the cluster has.
        """
        self._has_shrunk = has_shrunk
        self._check_api(owned)
        with_log: list[tuple[AttemptRow, _End]] = []
        for item in owned:
            with _continue_after_error(item.attempt):
                end = self._check(item, lost_runners)
                if end is not None and end.log_of is not None:
                    with_log.append((item.attempt, end))
                elif end is not None:
                    self._end(item.attempt, end)
        # Last, since a log may be slow or long, and Ray may not respond.
        deadline = time.monotonic() + _LOGS_TIMEOUT_SECONDS
        for attempt, end in with_log:
            with _continue_after_error(attempt):
                tail = self._read_log_tail(end.log_of or "", deadline=deadline)
                self._end(attempt, replace(end, message=f"{end.message}\n{tail}".strip()))

    def _check_api(self, owned: list[OwnedAttempt]) -> None:
        """Notes since when the API is up; asks it only where an attempt was silent for long."""
        now = self._now()
        half = timedelta(seconds=self._settings.heartbeat_timeout_seconds / 2)
        is_any_silent = any(
            item.attempt.state is not AttemptState.ENDED
            and now > (item.attempt.last_report_at or item.attempt.created_at) + half
            for item in owned
        )
        if is_any_silent and not self._is_api_up():
            self._api_up_since = None
        elif self._api_up_since is None:
            self._api_up_since = now

    def _is_api_up(self) -> bool:
        try:
            response = httpx.get(
                f"{self._settings.api_url}/v1/health",
                timeout=_HEALTH_TIMEOUT_SECONDS,
                trust_env=False,
            )
        except httpx.HTTPError:
            return False
        return response.is_success

    def _check(
        self, item: OwnedAttempt, lost_runners: Mapping[str, ClusterJob | None]
    ) -> "_End | None":
        """Stops the runner of an ended attempt, or returns how the active one must end."""
        attempt = item.attempt
        assert attempt.runner_id is not None
        if attempt.state is AttemptState.ENDED:
            self._stop_late_runner(attempt, attempt.runner_id)
            return None
        if attempt.runner_id in lost_runners:
            return _explain_loss(lost_runners[attempt.runner_id])
        return self._find_due_end(item)

    def _stop_late_runner(self, attempt: AttemptRow, runner_id: str) -> None:
        """A runner must ask for its next attempt soon after its last one; a killed one never."""
        assert attempt.ended_at is not None
        grace_seconds = self._settings.termination_grace_seconds
        if attempt.reason is Reason.KILLED or self._has_passed(attempt.ended_at, grace_seconds):
            self._runners.stop(runner_id)

    def _find_due_end(self, item: OwnedAttempt) -> "_End | None":
        """Why the dispatcher must end an active attempt; None while it need not."""
        attempt, job = item.attempt, item.job
        grace_seconds = self._settings.cancel_grace_seconds
        is_running = attempt.state is AttemptState.RUNNING
        # One that shall continue with more workers is not worth what a stop from outside loses.
        if job.stop_requested is not None and job.stop_requested is not StopReason.RESIZE:
            assert job.stop_requested_at is not None
            if not is_running or self._has_passed(job.stop_requested_at, grace_seconds):
                return _End(job.stop_requested.reason, "stopped by the dispatcher")
        if attempts.exceeds_time_limit(job, grace_seconds=grace_seconds):
            return _End(Reason.TIME_LIMIT, "did not stop at its time limit")
        if not is_running:
            return self._find_start_timeout(attempt, job)
        limit = self._settings.heartbeat_timeout_seconds
        if attempt.last_report_at and self._is_silent_since(attempt.last_report_at, limit):
            return _End(Reason.HEARTBEAT_TIMEOUT, f"no report for {limit:g} s")
        return None

    def _find_start_timeout(self, attempt: AttemptRow, job: JobRow) -> "_End | None":
        """The limit doubles with each infrastructure failure of the job, up to eightfold.

        On a machine that is busy starting runners, replacing them too early would never end.
        """
        if self._has_shrunk and attempt.num_workers > job.worker_counts[0]:
            # It was claimed while Ray still counted a lost node, and could wait for it.
            message = f"the cluster no longer has {count_of(attempt.num_workers, 'worker')}"
            return _End(Reason.CLUSTER_LOST, message)
        doublings = min(job.infra_restarts, _MAX_START_DOUBLINGS)
        limit = self._settings.start_timeout_seconds * 2.0**doublings
        # A runner that was not submitted counts too: the cluster may have shrunk since the claim.
        if not self._is_silent_since(attempt.submitted_at or attempt.created_at, limit):
            return None
        message = f"no report within {limit:g} s"
        return _End(Reason.START_TIMEOUT, message, log_of=attempt.runner_id)

    def _is_silent_since(self, last: datetime, limit_seconds: float) -> bool:
        """Whether the limit has passed, counted from when reports could have arrived."""
        if self._api_up_since is None:
            return False
        return self._has_passed(max(last, self._api_up_since), limit_seconds)

    def _has_passed(self, since: datetime, seconds: float) -> bool:
        """Whether the time has passed, not counting what was before the clock jumped."""
        counted_from = max(since, self._clock_jumped_at or since)
        return self._now() > counted_from + timedelta(seconds=seconds)

    def _read_log_tail(self, runner_id: str, *, deadline: float) -> str:
        """Empty where Ray does not give it before the deadline, a time of `time.monotonic`."""
        seconds = deadline - time.monotonic()
        if seconds <= 0:
            return ""
        try:
            return self._cluster.read_log_tail(
                runner_id, max_chars=_LOG_TAIL_CHARACTERS, timeout_seconds=seconds
            )
        except ClusterUnavailable as error:
            log.warning("cannot read the log of a runner", runner_id=runner_id, error=str(error))
            return ""

    def _end(self, attempt: AttemptRow, end: "_End") -> None:
        with self._database.transaction() as session:
            has_ended = leases.end_attempt(
                session,
                attempt.id,
                end.reason,
                fencing_token=attempt.fencing_token,
                now=self._now(),
                message=end.message,
            )
        if has_ended:
            log.warning("attempt ended", reason=end.reason, message=end.message[:200])
        # A runner that has not taken the attempt yet can run another, unless it cannot start; one
        # that was released runs another already.
        is_stopped = end.stops_runner and (
            attempt.assigned_at is not None or end.reason in _UNSTARTABLE
        )
        if is_stopped and attempt.released_at is None:
            assert attempt.runner_id is not None
            self._runners.stop(attempt.runner_id)


@dataclass(frozen=True)
class _End:
    """`log_of`: the runner whose log explains the end; `stops_runner`: Ray still has it."""

    reason: Reason
    message: str
    log_of: str | None = None
    stops_runner: bool = True


def _explain_loss(ray_job: ClusterJob | None) -> _End:
    if ray_job is None:
        message = "Ray no longer knows the runner"
        return _End(Reason.CLUSTER_LOST, message, stops_runner=False)
    return _End(
        Reason.WORKER_DIED,
        f"the runner's processes exited without reporting a result: {ray_job.message}",
        log_of=ray_job.submission_id,
        stops_runner=False,
    )


@contextmanager
def _continue_after_error(attempt: AttemptRow) -> Iterator[None]:
    with about_attempt(attempt.id):
        try:
            yield
        except LeaseLost as error:
            log.warning("lease lost", error=str(error))
        except Unavailable:
            raise
        except Exception:
            # A row that this version cannot read must not stop the queue, nor other attempts.
            log.exception("cannot check attempt")
