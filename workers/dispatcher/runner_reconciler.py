"""The runners in the cluster: started where there is room, hurried, and cleared away."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog

from service.errors import ClusterUnavailable
from service.execution import runners, warm_pool
from service.execution.runners import RunnerSubmission
from service.scheduling import cluster_state
from service.states import RunnerState
from service.storage.tables import RunnerRow
from workers.cluster import ray_jobs
from workers.cluster.ray_jobs import ClusterJob
from workers.dispatcher import reconciler
from workers.dispatcher.reconciler import RayJobReconciler

log = structlog.get_logger()

# A shell command, the same for every runner: what differs goes into the environment.
ENTRYPOINT = "python -m workers runner"


class RunnerReconciler(RayJobReconciler):
    """Several dispatchers may see to one fleet."""

    def start_what_fits(self) -> None:
        """Gives the cluster the planned runners that there is room for."""
        with self._database.reading() as session:
            if not runners.is_any_to_start(session):
                return
        with self._database.transaction() as session:
            whole = cluster_state.lock_cluster(session)
            starts = (
                [] if whole is None else runners.take_startable(session, whole, now=self._now())
            )
        if not starts:
            return
        try:
            num_nodes = len(self._cluster.resources().nodes)
            while starts:
                self._submit(starts.pop(0), num_nodes=num_nodes)
        except ClusterUnavailable:
            with self._database.transaction() as session:
                runners.revert_submissions(session, starts)
            raise

    def is_lost(self, runner: RunnerRow, found: Mapping[str, ClusterJob]) -> bool:
        """Whether the cluster is rid of it."""
        cluster_job = found.get(runner.id)
        if cluster_job is not None:
            return cluster_job.state.is_final
        if runner.submitted_at is not None:
            return self._now() > runner.submitted_at + reconciler.LISTING_DELAY
        # One that is starting is submitted again.
        is_leaving = runner.state is RunnerState.DRAINING
        return is_leaving and runners.is_submission_lost(runner, now=self._now())

    def tidy(self, there: list[RunnerRow], found: Mapping[str, ClusterJob]) -> None:
        """Clears the lost away, hurries the late, and keeps as many standbys as there should be."""
        for runner in there:
            if self.is_lost(runner, found):
                self._clear_away(runner.id)
            elif runner.submitted_at is not None:
                self._hurry(runner, since=runner.submitted_at)
            elif runner.id in found:
                # The answer to its submission was lost.
                self._mark_submitted(runner.id)
        with self._database.transaction() as session:
            whole = cluster_state.lock_cluster(session)
            if whole is not None:
                warm_pool.reconcile(
                    session,
                    whole,
                    wanted=self._settings.warm_runners,
                    num_workers=self._settings.warm_runner_workers,
                    lives=self._settings.attempts_per_runner,
                    now=self._now(),
                )

    def dismiss_after(self, runner_id: str) -> None:
        """Ends a runner that does not come back from its attempt by itself.

        Not while it trains others beside it: they go on, and it hears at its next report.
        """
        with self._database.reading() as session:
            if runners.has_active_attempt(session, runner_id):
                return
        self._dismiss(runner_id)

    def _dismiss(self, runner_id: str) -> None:
        with self._database.transaction() as session:
            runners.drain_runner(session, runner_id, now=self._now())
        self._ask_to_stop(runner_id)

    def _submit(self, start: RunnerSubmission, *, num_nodes: int) -> None:
        env_vars = ray_jobs.runner_env(
            api_url=self._settings.api_url,
            runner_id=start.runner_id,
            shape=start.shape,
            token=start.secret,
            data_path=self._settings.data_dir,
            work_path=self._settings.work_dir,
            num_nodes=num_nodes,
        )
        self._cluster.submit(
            start.runner_id, entrypoint=ENTRYPOINT, env_vars=env_vars, metadata=self._signature
        )
        self._mark_submitted(start.runner_id)
        log.info("runner submitted", runner_id=start.runner_id, workers=start.shape.num_workers)

    def _mark_submitted(self, runner_id: str) -> None:
        with self._database.transaction() as session:
            runners.mark_submitted(session, runner_id, now=self._now())

    def _clear_away(self, runner_id: str) -> None:
        """Frees what the runner held. While its attempt lives, its own dispatcher ends that."""
        with self._database.reading() as session:
            if runners.has_active_attempt(session, runner_id):
                return
        # Ray slows down with the number of jobs that it remembers (ray-project/ray#37894).
        # Before the rest, after which nobody would come back for it.
        self._cluster.delete(runner_id)
        with self._database.transaction() as session:
            runners.mark_terminated(session, runner_id, now=self._now())
        self._asked_to_stop.pop(runner_id, None)
        log.info("runner is gone", runner_id=runner_id)

    def _hurry(self, runner: RunnerRow, *, since: datetime) -> None:
        """A runner that should be up, or gone, by now."""
        if runner.attempt_id is not None:
            return  # its attempt is watched
        seconds = self._settings.start_timeout_seconds
        if runner.state is RunnerState.DRAINING:
            since = runner.draining_since or since
            seconds = self._settings.termination_grace_seconds
            with self._database.reading() as session:
                if runners.has_active_attempt(session, runner.id):
                    return  # it delivers what it has trained; silence would end that
        elif runner.ready_at is not None:
            return
        if self._now() > since + timedelta(seconds=seconds):
            self._dismiss(runner.id)
