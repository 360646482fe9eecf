"""The dispatcher: gives queued jobs to runners, watches both, survives its restart.

Each look is at the cluster first and at the database second. So an attempt whose runner has
ended, but which has not told its end by then, will never tell it.
"""

import os
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import httpx
import structlog

from service.errors import DatabaseUnavailable, LeaseLost, Unavailable
from service.execution import attempts, runners
from service.jobs import retention
from service.resources import ResourceBundle
from service.scheduling import admission, cluster_state, leases
from service.scheduling.leases import Claim, OwnedAttempt
from service.settings import Settings
from service.states import AttemptState, Reason
from service.storage.database import ChangeListener, Database
from service.storage.tables import AttemptRow, JobRow
from workers.cluster.ray_jobs import ClusterJob, ClusterResources
from workers.dispatcher.driver_reconciler import DriverReconciler
from workers.dispatcher.reconciler import Cluster
from workers.dispatcher.runner_reconciler import RunnerReconciler

log = structlog.get_logger()

_HEALTH_TIMEOUT_SECONDS = 3.0
# While a runner leaves, its room is waited for.
_DRAIN_POLL = timedelta(seconds=0.2)
# Of old records.
_SWEEP_INTERVAL = timedelta(minutes=10)
_LOG_TAIL_CHARACTERS = 4_000
_MAX_START_DOUBLINGS = 3


class Dispatcher:
    """One process of these is enough; several share the work. `now` is the clock, UTC."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        cluster: Cluster,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._database = database
        self._cluster = cluster
        self._now = now
        self.owner = f"{socket.gethostname()[:30]}-{os.getpid()}-{secrets.token_hex(4)}"
        self._fleet = RunnerReconciler(settings, database, cluster, owner=self.owner, now=now)
        self._drivers = DriverReconciler(settings, database, cluster, owner=self.owner, now=now)
        self._warned: type[Unavailable] | None = None
        self._next_look = now()
        self._next_sweep = now()
        # Since when reports can have arrived: silence before that says nothing.
        self._hearing_since: datetime | None = None

    def run(self, stopping: threading.Event) -> None:
        """Rounds until `stopping` is set. What is away is waited for."""
        heart = threading.Thread(target=self._beat, args=(stopping,), name="heartbeat", daemon=True)
        heart.start()
        changes = self._database.changes()
        log.info("dispatcher is up", owner=self.owner, cluster=self._settings.ray_url)
        try:
            while not stopping.is_set():
                wait_seconds = self._settings.poll_interval_seconds
                try:
                    wait_seconds = min(wait_seconds, self.round())
                    self._warned = None
                except Unavailable as error:
                    self._hearing_since = None
                    self._next_look = self._now()
                    self._warn_once(error)
                except Exception:
                    # The one place that catches everything: one bad row must not stop the queue.
                    log.exception("round failed")
                    stopping.wait(self._settings.poll_interval_seconds)
                self._wait(changes, stopping, wait_seconds)
        finally:
            stopping.set()
            heart.join()
            changes.close()
            self._let_go()

    def round(self) -> float:
        """Looks where a look is due, and claims what fits. Seconds until the next is due.

        Every change in the database ends the wait for a round. A look costs the cluster two
        requests, so it has its own rhythm; a claim costs one query.
        """
        if self._now() >= self._next_look:
            self._look()
        while (claim := self._claim()) is not None:
            log.info("job claimed", attempt_id=claim.attempt_id, runner_id=claim.runner_id)
        self._fleet.start_what_fits()
        self._drivers.start_due()
        now = self._now()
        with self._database.reading() as session:
            due = leases.seconds_until_retry(session, now=now)
            is_any_leaving = runners.is_any_draining(session)
        if is_any_leaving:
            self._next_look = min(self._next_look, now + _DRAIN_POLL)
        until_look = (self._next_look - now).total_seconds()
        return max(0.0, until_look if due is None else min(due, until_look))

    def _look(self) -> None:
        """One look at the cluster, then at the database, then at each attempt in both."""
        found = {job.submission_id: job for job in self._cluster.list_jobs()}
        resources = self._cluster.resources()
        pool = self._pool(resources)
        nodes = [ResourceBundle(cpus=node.num_cpus, gpus=node.num_gpus) for node in resources.nodes]
        now = self._now()
        with self._database.transaction() as session:
            # A cluster that is just coming up has no node yet; that says nothing about its size.
            if pool.cpus > 0:
                cluster_state.record_cluster(session, pool, nodes=nodes, now=now)
            if now >= self._next_sweep and not retention.delete_expired(
                session, self._settings.record_retention, now=now
            ):
                self._next_sweep = now + _SWEEP_INTERVAL
            lease_seconds = self._settings.lease_seconds
            taken = leases.take_over_expired(
                session, owner=self.owner, now=now, lease_seconds=lease_seconds
            )
        for attempt in taken:
            log.info(
                "attempt taken over", attempt_id=attempt.id, fencing_token=attempt.fencing_token
            )
        with self._database.reading() as session:
            held = leases.list_owned(session, owner=self.owner)
            there = runners.list_active(session)
        lost = {one.id: found.get(one.id) for one in there if self._fleet.is_lost(one, found)}
        self._listen(held)
        for one in held:
            try:
                self._watch(one, lost)
            except LeaseLost as error:
                log.warning("lease lost", attempt_id=one.attempt.id, error=str(error))
            except Unavailable:
                raise
            except Exception:
                # A row that this version cannot read must not stop the queue, nor other attempts.
                log.exception("attempt cannot be watched", attempt_id=one.attempt.id)
        self._fleet.tidy(there, found)
        self._drivers.tidy(found)
        self._next_look = self._now() + timedelta(seconds=self._settings.poll_interval_seconds)

    def _claim(self) -> Claim | None:
        with self._database.transaction() as session:
            return admission.claim_next_job(
                session,
                owner=self.owner,
                now=self._now(),
                lease_seconds=self._settings.lease_seconds,
                limits=self._settings.concurrency_limits,
                runner_lives=self._settings.attempts_per_runner,
            )

    def _watch(self, held: OwnedAttempt, lost: Mapping[str, ClusterJob | None]) -> None:
        attempt = held.attempt
        assert attempt.runner_id is not None
        if attempt.state is AttemptState.ENDED:
            assert attempt.ended_at is not None
            patience = timedelta(seconds=self._settings.termination_grace_seconds)
            is_killed = attempt.reason is Reason.KILLED
            if is_killed or self._now() > attempt.ended_at + patience:
                self._fleet.dismiss_after(attempt.runner_id)
        elif attempt.runner_id in lost:
            self._end_without_word(attempt, lost[attempt.runner_id])
        else:
            verdict = self._judge(held)
            if verdict is not None:
                self._end(attempt, verdict.reason, verdict.message)
                # A runner that has not heard of the attempt yet will do for another; one that is
                # released runs another.
                is_taken = attempt.assigned_at is not None or verdict.reason is Reason.START_TIMEOUT
                if is_taken and attempt.released_at is None:
                    self._fleet.dismiss_after(attempt.runner_id)

    def _end_without_word(self, attempt: AttemptRow, cluster_job: ClusterJob | None) -> None:
        if cluster_job is None:
            self._end(attempt, Reason.CLUSTER_LOST, "the cluster does not know its runner any more")
            return
        tail = self._cluster.logs_tail(cluster_job.submission_id, max_chars=_LOG_TAIL_CHARACTERS)
        message = f"its processes ended without a word: {cluster_job.message}\n{tail}".strip()
        self._end(attempt, Reason.WORKER_DIED, message)

    def _judge(self, held: OwnedAttempt) -> "_Verdict | None":
        """Why a running attempt must be ended from outside; None as long as it need not."""
        attempt, job = held.attempt, held.job
        now = self._now()
        grace_seconds = self._settings.cancel_grace_seconds
        has_begun = attempt.state is AttemptState.RUNNING
        if job.stop_requested is not None and job.stop_requested_at is not None:
            waited = now - job.stop_requested_at
            if not has_begun or waited > timedelta(seconds=grace_seconds):
                return _Verdict(job.stop_requested.reason, "stopped by the dispatcher")
        if attempts.exceeds_time_limit(job, attempt, now=now, grace_seconds=grace_seconds):
            return _Verdict(Reason.TIME_LIMIT, "did not stop at its time limit")
        if not has_begun:
            limit = self._start_timeout_seconds(job)
            # Its runner may have no room either, where the cluster has shrunk since the claim.
            if self._is_silent_since(attempt.submitted_at or attempt.created_at, limit):
                tail = self._cluster.logs_tail(
                    attempt.runner_id or "", max_chars=_LOG_TAIL_CHARACTERS
                )
                return _Verdict(Reason.START_TIMEOUT, f"no report within {limit:g} s\n{tail}")
            return None
        limit = self._settings.heartbeat_timeout_seconds
        if attempt.last_report_at and self._is_silent_since(attempt.last_report_at, limit):
            return _Verdict(Reason.HEARTBEAT_TIMEOUT, f"no report for {limit:g} s")
        return None

    def _start_timeout_seconds(self, job: JobRow) -> float:
        """Twice as long with each attempt that was broken, up to eight times.

        On a machine that is busy starting runners, starting others instead ends never.
        """
        doublings = min(job.infra_restarts, _MAX_START_DOUBLINGS)
        return self._settings.start_timeout_seconds * 2.0**doublings

    def _is_silent_since(self, last: datetime, limit_seconds: float) -> bool:
        """Whether the limit is over, counted from when reports could have arrived."""
        if self._hearing_since is None:
            return False
        return self._now() > max(last, self._hearing_since) + timedelta(seconds=limit_seconds)

    def _listen(self, held: list[OwnedAttempt]) -> None:
        """Notes since when the API can hear reports; asks it only where an attempt is quiet."""
        quiet = timedelta(seconds=self._settings.heartbeat_timeout_seconds / 2)
        now = self._now()
        is_any_quiet = any(
            one.attempt.state is not AttemptState.ENDED
            and now > (one.attempt.last_report_at or one.attempt.created_at) + quiet
            for one in held
        )
        if not is_any_quiet:
            self._hearing_since = self._hearing_since or now
            return
        if not self._is_api_up():
            self._hearing_since = None
        elif self._hearing_since is None:
            self._hearing_since = now

    def _is_api_up(self) -> bool:
        try:
            answer = httpx.get(
                f"{self._settings.api_url}/v1/health",
                timeout=_HEALTH_TIMEOUT_SECONDS,
                trust_env=False,
            )
        except httpx.HTTPError:
            return False
        return answer.is_success

    def _end(self, attempt: AttemptRow, reason: Reason, message: str) -> None:
        with self._database.transaction() as session:
            has_ended = leases.end_attempt(
                session,
                attempt.id,
                reason,
                fencing_token=attempt.fencing_token,
                now=self._now(),
                message=message,
            )
        if has_ended:
            log.warning(
                "attempt ended", attempt_id=attempt.id, reason=reason, message=message[:200]
            )

    def _pool(self, there: ClusterResources) -> ResourceBundle:
        """What may be given away: what the cluster has, or less where the settings say so."""
        limits = self._settings
        return ResourceBundle(
            cpus=there.num_cpus
            if limits.max_cpus is None
            else min(there.num_cpus, limits.max_cpus),
            gpus=there.num_gpus
            if limits.max_gpus is None
            else min(there.num_gpus, limits.max_gpus),
        )

    def _beat(self, stopping: threading.Event) -> None:
        """Renews the leases beside the rounds: a slow cluster must not cost them."""
        while not stopping.wait(self._settings.lease_seconds / 3):
            try:
                with self._database.transaction() as session:
                    leases.renew_leases(
                        session,
                        owner=self.owner,
                        now=self._now(),
                        lease_seconds=self._settings.lease_seconds,
                    )
            except DatabaseUnavailable as error:
                log.warning("cannot renew the leases", error=str(error))

    def _wait(self, changes: ChangeListener, stopping: threading.Event, seconds: float) -> None:
        try:
            changes.wait(seconds)
        except DatabaseUnavailable as error:
            self._warn_once(error)
            stopping.wait(self._settings.poll_interval_seconds)

    def _let_go(self) -> None:
        try:
            with self._database.transaction() as session:
                leases.release_leases(session, owner=self.owner, now=self._now())
        except DatabaseUnavailable as error:
            log.warning("cannot give up the leases; they expire", error=str(error))

    def _warn_once(self, error: Unavailable) -> None:
        """An outage is one line in the log, not one a second."""
        if self._warned is not type(error):
            log.warning("waiting for what is away", error=str(error))
        self._warned = type(error)


@dataclass(frozen=True)
class _Verdict:
    reason: Reason
    message: str
