"""Simulated nodes behind the Ray boundary: runners that train nothing and report as real ones do.

What happens on the nodes is a list of events in simulated time, which only `run_until` moves. The
calls of runners and trainings are those of the API's routes, in this process.
"""

import heapq
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count

from sqlalchemy import or_, select

from benchmarks.meter import Meter
from service.errors import StaleAttempt
from service.specs.protocol import MetricPoint, Progress, TrainingResult
from service.states import RayJobState, Reason
from service.storage.tables import RunnerRow
from tests.support.core import Core
from workers.cluster.ray_jobs import ClusterJob, ClusterJobState, ClusterResources, NodeResources

# From the submission of a Ray job until its workers ask for an attempt, as measured on two cores.
START_SECONDS = 8.0
POINTS = 10
_WORKERS = re.compile(r"(\d+)x(\d+)cpu")


@dataclass
class _Runner:
    """`places`: the node of each worker; empty while it waits inside Ray."""

    id: str
    num_workers: int
    cpus_per_worker: int
    places: list[int] = field(default_factory=list)
    trained: str | None = None


@dataclass(frozen=True)
class Training:
    """`started_at`: by the simulated clock."""

    attempt_id: str
    job_id: str
    cpus: int
    started_at: datetime
    seconds: float


class SimulatedCluster:
    """`seconds_of`: how long the training of a job takes."""

    def __init__(
        self,
        core: Core,
        meter: Meter,
        *,
        nodes: int,
        cpus_per_node: int,
        seconds_of: Callable[[str], float],
    ) -> None:
        self._core = core
        self._meter = meter
        self._seconds_of = seconds_of
        self._free = [cpus_per_node] * nodes
        self._resources = ClusterResources(
            nodes=tuple(NodeResources(f"node-{n}", cpus_per_node, 0) for n in range(nodes))
        )
        self._runners: dict[str, _Runner] = {}
        self._waiting: list[_Runner] = []
        self._idle: set[str] = set()
        self._jobs: dict[str, ClusterJob] = {}
        self._events: list[tuple[datetime, int, Callable[[], None]]] = []
        self._order = count()
        # The first node that may have a free CPU.
        self._first_free = 0
        self.capacity = nodes * cpus_per_node
        self.cpus_in_use = 0
        self.most_cpus_in_use = 0
        self.least_free = cpus_per_node
        self.pending_runners = 0
        self.started: list[Training] = []
        self.num_finished = 0

    # What a dispatcher needs of Ray.

    def submit(
        self,
        submission_id: str,
        *,
        entrypoint: str,
        env_vars: Mapping[str, str],
        metadata: Mapping[str, str],
    ) -> None:
        del entrypoint
        if submission_id in self._jobs:
            return
        found = _WORKERS.match(env_vars["RESNETD_RUNNER_WORKER_GROUP"])
        assert found is not None
        runner = _Runner(submission_id, int(found[1]), int(found[2]))
        self._jobs[submission_id] = ClusterJob(
            submission_id, ClusterJobState.RUNNING, "", dict(metadata)
        )
        self._runners[submission_id] = runner
        if not self._place(runner):
            # As Ray: a placement group waits until nodes have room for all its workers.
            self.pending_runners += 1
            self._waiting.append(runner)

    def list_jobs(self) -> list[ClusterJob]:
        return list(self._jobs.values())

    def read_resources(self) -> ClusterResources:
        return self._resources

    def stop(self, submission_id: str) -> bool:
        raise AssertionError(f"{submission_id} is stopped, but no runner of a simulation is late")

    def delete(self, submission_id: str) -> bool:
        return self._jobs.pop(submission_id, None) is not None

    def read_log_tail(
        self, submission_id: str, *, max_chars: int = 8_000, timeout_seconds: float = 30.0
    ) -> str:
        del submission_id, max_chars, timeout_seconds
        return ""

    # What happens on the nodes.

    @property
    def next_at(self) -> datetime | None:
        return self._events[0][0] if self._events else None

    def run_until(self, end: datetime) -> None:
        """All events until then, each at its own time."""
        while self._events and self._events[0][0] <= end:
            self._core.clock.now, _, happen = heapq.heappop(self._events)
            happen()
        self._core.clock.now = end

    def wake_runners(self) -> None:
        """Those that wait for an attempt and have got one, or are drained."""
        if not self._idle:
            return
        with self._core.database.reading() as session:
            woken = session.scalars(
                select(RunnerRow.id).where(
                    RunnerRow.id.in_(self._idle),
                    or_(RunnerRow.attempt_id.is_not(None), RunnerRow.state != RayJobState.READY),
                )
            ).all()
        for runner_id in woken:
            self._idle.discard(runner_id)
            self._ask(self._runners[runner_id])

    def _place(self, runner: _Runner) -> bool:
        places = self._find_places(runner)
        if places is None:
            return False
        for node in places:
            self._free[node] -= runner.cpus_per_worker
            self.least_free = min(self.least_free, self._free[node])
        runner.places = places
        self._at(START_SECONDS, lambda: self._ask(runner))
        return True

    def _find_places(self, runner: _Runner) -> list[int] | None:
        """The first node with room for each worker; None where one has none."""
        while self._first_free < len(self._free) and self._free[self._first_free] == 0:
            self._first_free += 1
        places: list[int] = []
        for node in range(self._first_free, len(self._free)):
            room = self._free[node] // runner.cpus_per_worker
            places += [node] * min(room, runner.num_workers - len(places))
            if len(places) == runner.num_workers:
                return places
        return None

    def _ask(self, runner: _Runner) -> None:
        trained, runner.trained = runner.trained, None
        with self._meter.measure("next attempt"):
            response = self._core.ask(runner.id, trained_attempt_id=trained)
        if response is None:
            self._idle.add(runner.id)
        elif response.assignment is not None:
            config = response.assignment.config
            self._train(runner, config.attempt_id, config.job_id)
        else:
            self._exit(runner)

    def _train(self, runner: _Runner, attempt_id: str, job_id: str) -> None:
        cpus = runner.num_workers * runner.cpus_per_worker
        training = Training(
            attempt_id, job_id, cpus, self._core.clock.now, self._seconds_of(job_id)
        )
        self.started.append(training)
        self.cpus_in_use += cpus
        self.most_cpus_in_use = max(self.most_cpus_in_use, self.cpus_in_use)
        progress = Progress(iteration=1, iterations=600, images_per_second=100.0)
        with self._meter.measure("report"):
            self._core.report(attempt_id, 1, progress=progress)
        self._at(training.seconds, lambda: self._finish(runner, training))

    def _finish(self, runner: _Runner, training: Training) -> None:
        self.cpus_in_use -= training.cpus
        points = [
            MetricPoint(
                series="test_error",
                iteration=600 * (number + 1) // POINTS,
                value=50.0 / (number + 1),
                seconds=training.seconds * (number + 1) / POINTS,
                at=self._core.clock.now,
            )
            for number in range(POINTS)
        ]
        result = TrainingResult(train_error=1.0, test_error=5.0, training_seconds=training.seconds)
        with self._meter.measure("report"):
            self._core.report(training.attempt_id, 2, metrics=points)
        try:
            with self._meter.measure("finish"):
                self._core.finish(training.attempt_id, Reason.COMPLETED, result=result)
        except StaleAttempt as error:
            raise AssertionError(f"{training.attempt_id} was ended by the dispatcher") from error
        self.num_finished += 1
        runner.trained = training.attempt_id
        self._ask(runner)

    def _exit(self, runner: _Runner) -> None:
        for node in runner.places:
            self._free[node] += runner.cpus_per_worker
            self._first_free = min(self._first_free, node)
        del self._runners[runner.id]
        job = self._jobs[runner.id]
        self._jobs[runner.id] = ClusterJob(runner.id, ClusterJobState.SUCCEEDED, "", job.metadata)
        while self._waiting and self._place(self._waiting[0]):
            self._waiting.pop(0)

    def _at(self, seconds: float, happen: Callable[[], None]) -> None:
        at = self._core.clock.now + timedelta(seconds=seconds)
        heapq.heappush(self._events, (at, next(self._order), happen))
