"""A cluster in this process: its jobs run until a test ends them, whatever they are asked."""

import threading
from collections.abc import Callable, Mapping

from service.errors import ClusterUnavailable
from workers.cluster.ray_jobs import ClusterJob, ClusterJobState, ClusterResources, NodeResources


class FakeCluster:
    """Nodes with `cpus` in all, and what it was asked for.

    `started`: jobs in the order of their start; `submissions`: all requests to start one.
    """

    def __init__(self, *, cpus: int = 4) -> None:
        self.cpus = cpus
        self.is_away = False
        self.is_losing_answers = False
        self.jobs: dict[str, ClusterJob] = {}
        self.envs: dict[str, Mapping[str, str]] = {}
        self.started: list[str] = []
        self.submissions: list[str] = []
        self.stops: list[str] = []
        self.entrypoints: set[str] = set()
        self.looks = 0
        # Called while a log is read: what others do meanwhile.
        self.meanwhile: Callable[[], object] = lambda: None
        # Cleared: whoever looks has to wait.
        self.is_answering = threading.Event()
        self.is_answering.set()
        self._lock = threading.Lock()

    def end(self, submission_id: str, state: ClusterJobState, message: str = "") -> None:
        self._set(submission_id, state, message, self.jobs[submission_id].metadata)

    def submit(
        self,
        submission_id: str,
        *,
        entrypoint: str,
        env_vars: Mapping[str, str],
        metadata: Mapping[str, str],
    ) -> None:
        with self._lock:
            self.submissions.append(submission_id)
            self._answer()
            if submission_id not in self.jobs:
                self.started.append(submission_id)
                self.entrypoints.add(entrypoint)
                self.envs[submission_id] = env_vars
                self._set(submission_id, ClusterJobState.RUNNING, "", metadata)
            if self.is_losing_answers:
                raise ClusterUnavailable("the answer got lost")

    def list_jobs(self) -> list[ClusterJob]:
        self.is_answering.wait(60.0)
        self.looks += 1
        self._answer()
        return list(self.jobs.values())

    def stop(self, submission_id: str) -> bool:
        self._answer()
        self.stops.append(submission_id)
        return submission_id in self.jobs

    def delete(self, submission_id: str) -> bool:
        self._answer()
        found = self.jobs.get(submission_id)
        assert found is None or found.state.is_final, "Ray deletes no job that runs"
        return self.jobs.pop(submission_id, None) is not None

    def logs_tail(self, submission_id: str, *, max_chars: int = 8_000) -> str:
        self._answer()
        self.meanwhile()
        return f"the log of {submission_id}"[-max_chars:]

    def resources(self) -> ClusterResources:
        self._answer()
        node = NodeResources(node_id="node-1", num_cpus=self.cpus, num_gpus=0)
        return ClusterResources(nodes=(node,) if self.cpus else ())

    def _answer(self) -> None:
        if self.is_away:
            raise ClusterUnavailable("no answer")

    def _set(
        self, submission_id: str, state: ClusterJobState, message: str, metadata: Mapping[str, str]
    ) -> None:
        self.jobs[submission_id] = ClusterJob(
            submission_id=submission_id, state=state, message=message, metadata=metadata
        )
