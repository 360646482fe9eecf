"""The database is down for ten minutes: seconds pass, and the dispatcher's clock is moved."""

import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from service.settings import Settings
from service.states import JobState, Reason
from service.storage.database import Database
from tests.support.api import serving_new
from tests.support.cluster import FakeCluster, running
from tests.support.fake_api import eventually
from tests.support.postgres import postgres_server
from tests.support.training import expected_points, without_machine
from workers.cluster.attempt_outcome import AttemptOutcome
from workers.cluster.attempt_process import run_in_process
from workers.cluster.process_settings import AttemptSettings
from workers.dispatcher.dispatcher import Dispatcher
from workers.reporting.retry import DELIVERY_SECONDS

pytestmark = [pytest.mark.db, pytest.mark.slow]

TEN_MINUTES = 600.0
RECIPE = {"name": "quick", "iterations": 200, "evaluate_every": 50, "checkpoint_every": 50}


def test_a_database_outage_of_ten_minutes_loses_no_attempt_and_no_point(
    tmp_path: Path,
) -> None:
    """What is trained meanwhile is reported final_config, each point once."""
    assert DELIVERY_SECONDS > TEN_MINUTES, "an attempt waits for the API for that long"
    cluster = FakeCluster()
    with (
        postgres_server(is_durable=True) as postgres,
        serving_new(postgres.new_database(), tmp_path) as api,
        closing(Database(api.settings.database_url.get_secret_value())) as database,
    ):
        core = api.core
        settings = Settings(
            database_url=api.settings.database_url,
            api_url=api.url,
            var_dir=tmp_path,
            poll_interval_seconds=0.1,
            warm_runners=0,
        )
        dispatcher = Dispatcher(
            settings,
            database,
            cluster,
            now=core.clock,
            monotonic=lambda: core.clock().timestamp(),
        )
        with running(dispatcher):
            job_id = core.submit(recipe=RECIPE)
            eventually(lambda: cluster.started)
            response = core.ask(core.runner_of(f"{job_id}-a1"))
            assert response is not None
            assert response.assignment is not None
            config = response.assignment.config
            attempt = AttemptSettings(
                api_url=api.url,
                attempt_id=config.attempt_id,
                token=response.assignment.token,
                data_dir=tmp_path / "data",
                work_dir=tmp_path / "work",
            )
            outcomes: list[AttemptOutcome] = []
            training = threading.Thread(target=lambda: outcomes.append(run_in_process(attempt)))
            training.start()
            eventually(lambda: core.job(job_id).state is JobState.RUNNING)

            postgres.stop()
            for _ in range(10):
                core.clock.advance(TEN_MINUTES / 10)
                eventually(partial(_has_polled_again, cluster, cluster.list_requests))
            assert outcomes == [], "the attempt ended before the API received its result"
            postgres.start()

            training.join(60.0)
            assert outcomes == [AttemptOutcome.FINISHED]
            eventually(lambda: core.job(job_id).state is JobState.SUCCEEDED)

        job = core.job(job_id)
        assert (job.attempts, job.reason) == (1, Reason.COMPLETED)
        series = api.get(f"/v1/jobs/{job_id}/metrics").json()["series"]
        points = {name: points["iterations"] for name, points in series.items()}
        assert without_machine(points) == expected_points(config.spec)


def _has_polled_again(cluster: FakeCluster, looks: int) -> bool:
    return cluster.list_requests > looks
