"""A fake Ray cluster whose jobs run until a test ends them, and steps of a dispatcher in tests."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from service.errors import ClusterUnavailable
from service.scheduling import cluster_state
from service.storage.tables import AttemptRow
from tests.support.core import Core
from workers.cluster.ray_jobs import ClusterJob, ClusterJobState, ClusterResources, NodeResources
from workers.dispatcher.dispatcher import Dispatcher

# The first retry of a job comes at most one second after the end of its attempt.
BACKOFF_SECONDS = 1.0


class FakeCluster:
    """`nodes` equal nodes with `cpus` in total; records the requests.

    `started`: jobs in the order of their start; `submissions`: all requests to start one.
    """

    def __init__(self, *, cpus: int = 4) -> None:
        self.cpus = cpus
        self.nodes = 1
        self.is_away = False
        self.is_losing_submissions = False
        self.is_losing_answers = False
        self.is_losing_logs = False
        # How long the machine was suspended so far.
        self.suspended_seconds = 0.0
        self.jobs: dict[str, ClusterJob] = {}
        self.envs: dict[str, Mapping[str, str]] = {}
        self.started: list[str] = []
        self.submissions: list[str] = []
        self.stops: list[str] = []
        self.entrypoints: set[str] = set()
        self.list_requests = 0
        # Called while a log is read, for what happens at the same time.
        self.meanwhile: Callable[[], object] = lambda: None
        # Cleared: the list of jobs is not answered.
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
            if self.is_losing_submissions:
                raise ClusterUnavailable("the request got lost")
            self.submissions.append(submission_id)
            self._answer()
            if submission_id not in self.jobs:
                self.started.append(submission_id)
                self.entrypoints.add(entrypoint)
                self.envs[submission_id] = env_vars
                self._set(submission_id, ClusterJobState.RUNNING, "", metadata)
            if self.is_losing_answers:
                raise ClusterUnavailable("the answer got lost")

    @contextmanager
    def losing_submissions(self) -> Iterator[None]:
        """Requests to submit do not arrive."""
        self.is_losing_submissions = True
        yield
        self.is_losing_submissions = False

    def list_jobs(self) -> list[ClusterJob]:
        self.is_answering.wait(60.0)
        self.list_requests += 1
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

    def read_log_tail(
        self, submission_id: str, *, max_chars: int = 8_000, timeout_seconds: float = 30.0
    ) -> str:
        self._answer()
        if self.is_losing_logs:
            raise ClusterUnavailable(f"no log within {timeout_seconds:g} s")
        self.meanwhile()
        return f"the log of {submission_id}"[-max_chars:]

    def read_resources(self) -> ClusterResources:
        self._answer()
        cpus = self.cpus // self.nodes
        nodes = [
            NodeResources(node_id=f"node-{number}", num_cpus=cpus, num_gpus=0)
            for number in range(self.nodes if cpus else 0)
        ]
        return ClusterResources(nodes=tuple(nodes))

    def _answer(self) -> None:
        if self.is_away:
            raise ClusterUnavailable("no answer")

    def _set(
        self, submission_id: str, state: ClusterJobState, message: str, metadata: Mapping[str, str]
    ) -> None:
        self.jobs[submission_id] = ClusterJob(
            submission_id=submission_id, state=state, message=message, metadata=metadata
        )


@dataclass
class HealthEndpoint:
    """Serves the API's /v1/health only."""

    url: str
    is_up: bool = True


Make = Callable[..., Dispatcher]


@contextmanager
def running(
    dispatcher: Dispatcher, *, to_wake_it: Callable[[], object] = lambda: None
) -> Iterator[None]:
    stopping = threading.Event()
    thread = threading.Thread(target=dispatcher.run, args=(stopping,))
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        to_wake_it()
        thread.join()


def later_round(core: Core, dispatcher: Dispatcher, *, after_seconds: float = 1.0) -> None:
    """A round that reconciles again."""
    core.clock.advance(after_seconds)
    dispatcher.run_round()


def start(core: Core, dispatcher: Dispatcher, **fields: Any) -> str:
    """The attempt of a new job, whose runner was submitted."""
    job_id = core.submit(**fields)
    dispatcher.run_round()
    return f"{job_id}-a1"


def run(core: Core, dispatcher: Dispatcher, **fields: Any) -> str:
    """The attempt of a new job, assigned to its runner, that has reported once."""
    attempt_id = start(core, dispatcher, **fields)
    core.ask(core.runner_of(attempt_id))
    core.report(attempt_id, 1)
    return attempt_id


def leave(core: Core, cluster: FakeCluster, runner_id: str) -> None:
    """The runner polls, is dismissed, and exits."""
    response = core.ask(runner_id)
    assert response is not None
    assert response.should_exit
    cluster.end(runner_id, ClusterJobState.SUCCEEDED)


def reserved_cpus(core: Core) -> int:
    with core.database.reading() as session:
        return cluster_state.sum_reserved(session).cpus


def attempts_started(core: Core, cluster: FakeCluster) -> list[str]:
    """The attempts whose runners were submitted, in that order."""
    with core.database.reading() as session:
        rows = session.execute(select(AttemptRow.runner_id, AttemptRow.id)).all()
    by_runner = {row.runner_id: row.id for row in rows}
    return [by_runner[runner_id] for runner_id in cluster.started]


def claim_only(core: Core, dispatcher: Dispatcher, **fields: Any) -> str:
    """A claimed attempt of a dispatcher that dies before it submits the runner."""
    dispatcher.run_round()
    core.submit(**fields)
    (claimed,) = dispatcher._claim()
    return claimed.attempt_id


def start_warm_runner(core: Core, cluster: FakeCluster, dispatcher: Dispatcher) -> str:
    """A ready warm runner that the dispatcher has started."""
    dispatcher.run_round()
    runner_id = cluster.started[-1]
    assert core.ask(runner_id) is None
    return runner_id
