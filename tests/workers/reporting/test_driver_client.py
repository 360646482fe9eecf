"""The driver's client, against the API itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.errors import ApiUnavailable, Conflict, Unauthorized
from service.execution.ray_job_lifecycle import RayJobSubmission
from service.specs.protocol import NextEvaluationRequest
from service.storage.tables import DriverRow
from tests.support.api import Api, serving_new
from tests.support.searching import Searching
from workers.reporting.driver_client import DriverClient


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with serving_new(f"sqlite:///{tmp_path / 'api.db'}", tmp_path) as served:
        yield served


@pytest.fixture
def searching(api: Api) -> Searching:
    return Searching(api.core)


@pytest.fixture
def start(searching: Searching) -> RayJobSubmission[DriverRow]:
    searching.submit(budget={"trials": 1})
    (started,) = searching.start_drivers()
    return started


@pytest.fixture
def client(api: Api, start: RayJobSubmission[DriverRow]) -> Iterator[DriverClient]:
    with DriverClient(api_url=api.url, driver_id=start.id, token=start.secret) as opened:
        yield opened


def test_a_driver_runs_a_search_from_its_config_to_its_end(
    client: DriverClient, searching: Searching, start: RayJobSubmission[DriverRow]
) -> None:
    config = client.fetch_config()
    assert (config.search_id, config.spec.trials) == (start.row.search_id, 1)
    trial = client.propose_trial("a", {"recipe.learning_rate": 0.1})
    assert client.propose_trial("a", {"recipe.learning_rate": 0.1}) == trial
    with pytest.raises(Conflict):
        client.propose_trial("b", {"recipe.learning_rate": 0.1})
    request = NextEvaluationRequest(tune_id="a", after_iteration=10)
    assert client.next_evaluation(request).evaluation is None
    searching.train(5.0)
    evaluation = client.next_evaluation(request).evaluation
    assert evaluation is not None
    assert evaluation.values == {"test/error": 5.0}
    client.stop_trial("a", iteration=20)
    assert not client.send_heartbeat(wait_seconds=0.0)
    client.finish("done")
    assert client.send_heartbeat(wait_seconds=60.0), "at once"


def test_a_driver_that_was_replaced_is_unauthorized(
    client: DriverClient, searching: Searching, start: RayJobSubmission[DriverRow]
) -> None:
    searching.terminate_driver(start.row.search_id)
    searching.core.clock.advance(60.0)
    searching.start_drivers()
    with pytest.raises(Unauthorized):
        client.fetch_config()


def test_an_unreachable_api_is_unavailable() -> None:
    with (
        DriverClient(api_url="http://127.0.0.1:9", driver_id="search-0-d1", token="t") as client,
        pytest.raises(ApiUnavailable),
    ):
        client.fetch_config()
