"""A chaos run: jobs are submitted, faults are injected, then the invariants are checked."""

import random
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import resnetd
from service.storage.database import Database
from service.text import count_of
from tests.chaos import invariants
from tests.chaos.environment import Environment, Log, run_environment
from tests.chaos.workload import SEARCH, JobCase, ReferenceRun, run_reference
from tests.support.fake_api import eventually

# After the last fault: what is under way may still be retried a few times.
_FINISH_SECONDS = 600.0
_UNFINISHED_JOBS = 6
_PAUSE_SHARE = 0.2
# Each look asks the service: more of them would take the processors from the training.
_POLL_SECONDS = 0.25


class Scenario:
    """The jobs and searches of one run. All random choices come from one seed."""

    def __init__(
        self, environment: Environment, client: resnetd.Client, random_numbers: random.Random
    ) -> None:
        self.jobs: dict[str, JobCase] = {}
        self.searches: list[str] = []
        self._environment = environment
        self._client = client
        self._random = random_numbers
        self._cancel_at: dict[str, float] = {}

    def submit(self, case: JobCase) -> None:
        job = self._client.submit(dict(case.spec))
        self.jobs[job.id] = case
        if case.is_cancelled:
            self._cancel_at[job.id] = time.monotonic() + self._random.uniform(0.0, 30.0)

    def refill_queue(self, cases: tuple[JobCase, ...]) -> None:
        """Submits random cases until six jobs run or wait."""
        unfinished = sum(
            not self._client.jobs.get(job_id).is_final for job_id in list(self.jobs)[-30:]
        )
        for _ in range(_UNFINISHED_JOBS - unfinished):
            self.submit(self._random.choice(cases))

    def keep_one_search(self) -> None:
        """Submits a search when the last has ended; pauses it at times, resumes a paused one."""
        state = self._client.searches.get(self.searches[-1]).state if self.searches else None
        if state is None or state.is_final:
            self.searches.append(self._client.searches.submit(SEARCH).id)
        elif state == "paused":
            self._client.searches.resume(self.searches[-1])
        elif self._random.random() < _PAUSE_SHARE:
            with suppress(resnetd.Conflict):  # the search has just ended
                self._client.searches.pause(self.searches[-1])

    def inject_fault(self, target: str) -> None:
        self._environment.inject_fault(target, self._random)

    def run_until(self, deadline: float) -> None:
        """Keeps the service up and cancels jobs until then, a reading of time.monotonic()."""

        def is_over() -> bool:
            self._environment.restart_stopped()
            self._cancel_due_jobs(now=time.monotonic())
            return time.monotonic() >= deadline

        eventually(
            is_over,
            within_seconds=deadline - time.monotonic() + 120.0,
            poll_seconds=_POLL_SECONDS,
        )

    def finish(self) -> None:
        """Waits for the end of all jobs and searches, without further faults."""
        self._cancel_due_jobs(now=float("inf"))
        for search_id in self.searches:
            if self._client.searches.get(search_id).state == "paused":
                self._client.searches.resume(search_id)
            self._wait_until_final(self._client.searches.get, search_id)
        for job_id in self.jobs:
            self._wait_until_final(self._client.jobs.get, job_id)

    def check(self, references: Mapping[str, ReferenceRun], folder: Path) -> None:
        """AssertionError when an invariant does not hold. `references`: runs by case name."""
        invariants.check_job_ends(self._client, self.jobs)
        trials = invariants.check_searches(self._client, self.searches)
        job_ids = [*self.jobs, *trials]
        invariants.check_event_numbers(self._client, job_ids)
        invariants.check_attempts_do_not_overlap(
            self._client, self._environment.database_url, job_ids
        )
        for job_id, case in self.jobs.items():
            if case.state == "succeeded":
                invariants.check_training(self._client, job_id, case, references[case.name], folder)
        with closing(Database(self._environment.database_url)) as database:
            invariants.check_nothing_is_left(self._environment, database)

    def summary(self) -> str:
        """A line for each case, and one for the searches."""
        attempts: dict[JobCase, list[int]] = {}
        for job_id, case in self.jobs.items():
            attempts.setdefault(case, []).append(len(self._client.jobs.attempts(job_id)))
        lines = [
            f"{case.name}: {count_of(len(numbers), 'job')} {case.state} "
            f"in {count_of(sum(numbers), 'attempt')}, at most {max(numbers)} for one job"
            for case, numbers in attempts.items()
        ]
        if self.searches:
            drivers = [
                self._client.searches.get(search).document["drivers"] for search in self.searches
            ]
            lines.append(
                f"{count_of(len(drivers), 'search')} succeeded "
                f"with {count_of(sum(drivers), 'driver')}"
            )
        return "\n".join(lines)

    def _cancel_due_jobs(self, *, now: float) -> None:
        for job_id in [job_id for job_id, due in self._cancel_at.items() if due <= now]:
            self._client.jobs.cancel(job_id)
            del self._cancel_at[job_id]

    def _wait_until_final(
        self, find: Callable[[str], resnetd.Job | resnetd.Search], which: str
    ) -> None:
        def is_final() -> bool:
            self._environment.restart_stopped()
            return find(which).is_final

        eventually(is_final, within_seconds=_FINISH_SECONDS, poll_seconds=_POLL_SECONDS)


def run_scenario(
    path: Path,
    *,
    seed: int,
    cases: tuple[JobCase, ...],
    script: Callable[[Scenario], None],
    log: Log,
    num_cpus: int = 3,
    warm_runner_workers: int = 1,
) -> str:
    """Runs the script, which submits `cases` and injects faults, then checks; returns a summary.

    AssertionError when an invariant does not hold.
    """
    with (
        tempfile.TemporaryDirectory(dir=path) as temporary,
        ThreadPoolExecutor(max_workers=1) as executor,
    ):
        folder = Path(temporary)
        runs = {
            case.name: executor.submit(run_reference, case, folder / case.name)
            for case in cases
            if case.state == "succeeded"
        }
        with (
            run_environment(
                path, log, num_cpus=num_cpus, warm_runner_workers=warm_runner_workers
            ) as environment,
            environment.client() as client,
        ):
            invariants.record_writes(environment.database_url)
            scenario = Scenario(environment, client, random.Random(seed))
            script(scenario)
            log("no more faults")
            scenario.finish()
            references = {name: run.result() for name, run in runs.items()}
            scenario.check(references, folder)
            return scenario.summary()
