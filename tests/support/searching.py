"""Calls of the service for searches and their drivers, each in a transaction of its own."""

from typing import Any

from service.execution.ray_job_lifecycle import RayJobSubmission
from service.searches import (
    commands,
    drivers,
    lifecycle,
    ranking,
    records,
    submission,
    trials,
)
from service.searches.ranking import SearchProgress
from service.specs import search_spec
from service.specs.protocol import (
    AssignedTrial,
    NextEvaluationResponse,
    Progress,
    SearchDriverConfig,
)
from service.states import Reason
from service.storage.tables import DriverRow, SearchRow
from tests.support.core import Core, Taken, make_point, written

# The smallest job: two evaluations.
TINY = {"name": "quick", "iterations": 20, "evaluate_every": 10, "checkpoint_every": 20}


def search_body(**fields: Any) -> dict[str, Any]:
    """The body of a request for a small search, with `fields` added or replaced."""
    return {
        "job": written(recipe=TINY),
        "space": {"recipe.learning_rate": {"loguniform": [0.001, 1.0]}},
        "metric": "test/error",
        "algorithm": "random",
        "budget": {"trials": 4, "concurrent": 2},
    } | fields


class Searching:
    def __init__(self, core: Core) -> None:
        self.core = core
        core.record_cluster(cpus=64)

    def submit(self, *, key: str | None = None, **fields: Any) -> str:
        spec = search_spec.parse_search_spec(search_body(**fields))
        self.core.clock.advance(1.0)
        with self.core.database.transaction() as session:
            submitted = submission.submit(
                session,
                spec,
                user="ann",
                data_dir=self.core.data_dir,
                now=self.core.clock.now,
                idempotency_key=key,
            )
            return submitted.row.id

    def row(self, search_id: str) -> SearchRow:
        with self.core.database.reading() as session:
            return records.find_search(session, search_id)

    def driver_id(self, search_id: str) -> str:
        driver_id = self.row(search_id).driver_id
        assert driver_id is not None
        return driver_id

    def driver(self, driver_id: str) -> DriverRow:
        with self.core.database.reading() as session:
            found = session.get(DriverRow, driver_id)
            assert found is not None
            return found

    def start_drivers(self) -> list[RayJobSubmission[DriverRow]]:
        with self.core.database.transaction() as session:
            starts = drivers.take_startable(session, now=self.core.clock.now)
            for start in starts:
                drivers.mark_submitted(session, start.id, now=self.core.clock.now)
            return starts

    def begin_driver(self, search_id: str) -> SearchDriverConfig:
        with self.core.database.transaction() as session:
            driver_id = self.driver_id(search_id)
            drivers.begin_driver(session, driver_id, now=self.core.clock.now)
        with self.core.database.reading() as session:
            return drivers.build_config(session, driver_id)

    def run(self, **fields: Any) -> str:
        """A new search under its first driver."""
        search_id = self.submit(**fields)
        assert [start.row.search_id for start in self.start_drivers()] == [search_id]
        self.begin_driver(search_id)
        return search_id

    def terminate_driver(self, search_id: str) -> None:
        with self.core.database.transaction() as session:
            drivers.mark_terminated(
                session, self.driver_id(search_id), message="killed", now=self.core.clock.now
            )

    def start_next_driver(self, search_id: str) -> SearchDriverConfig:
        self.core.clock.advance(120.0)
        assert [start.row.search_id for start in self.start_drivers()] == [search_id]
        return self.begin_driver(search_id)

    def assign_trial(
        self, search_id: str, tune_id: str, rate: float = 0.1, **params: Any
    ) -> AssignedTrial:
        # Of two jobs the later one is younger.
        self.core.clock.advance(0.001)
        with self.core.database.transaction() as session:
            search = lifecycle.lock_search(session, search_id)
            return trials.assign_trial(
                session,
                search,
                tune_id=tune_id,
                params={"recipe.learning_rate": rate} | params,
                data_dir=self.core.data_dir,
                now=self.core.clock.now,
            )

    def next_evaluation(
        self, search_id: str, tune_id: str, after: int = 0
    ) -> NextEvaluationResponse | None:
        with self.core.database.reading() as session:
            search = records.find_search(session, search_id)
            return trials.find_next_evaluation(session, search, tune_id=tune_id, after=after)

    def stop_trial(self, search_id: str, tune_id: str, *, iteration: int = 10) -> bool:
        with self.core.database.transaction() as session:
            search = lifecycle.lock_search(session, search_id)
            return trials.stop_trial(
                session, search, tune_id=tune_id, iteration=iteration, now=self.core.clock.now
            )

    def record_heartbeat(self, search_id: str) -> bool:
        """Whether the driver must exit."""
        with self.core.database.transaction() as session:
            driver_id = self.driver_id(search_id)
            return drivers.record_heartbeat(session, driver_id, now=self.core.clock.now)

    def finish_driver(self, search_id: str) -> None:
        with self.core.database.transaction() as session:
            driver_id = self.driver_id(search_id)
            drivers.finish_driver(session, driver_id, message="all ended", now=self.core.clock.now)

    def command(self, verb: str, search_id: str, *arguments: Any) -> SearchRow:
        with self.core.database.transaction() as session:
            steered: SearchRow = getattr(commands, verb)(
                session, search_id, *arguments, now=self.core.clock.now
            )
            return steered

    def read_progress(self, search_id: str) -> SearchProgress:
        with self.core.database.reading() as session:
            search = records.find_search(session, search_id)
            return ranking.read_progress(session, search, now=self.core.clock.now)

    def evaluate(self, attempt: Taken, sequence: int, iteration: int, error: float) -> None:
        self.core.report(
            attempt.attempt_id,
            sequence,
            progress=Progress(iteration=iteration, iterations=20, images_per_second=None),
            metrics=[make_point(series="test/error", iteration=iteration, value=error)],
        )

    def train(self, error: float, *, reason: Reason = Reason.COMPLETED) -> None:
        """Runs the next job to its end."""
        attempt = self.core.start_next()
        self.evaluate(attempt, 1, 10, 50.0)
        self.evaluate(attempt, 2, 20, error)
        self.core.finish(attempt.attempt_id, reason)

    def delete(self, search_id: str) -> None:
        with self.core.database.transaction() as session:
            commands.delete(session, search_id)
