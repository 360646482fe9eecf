"""Exports to a real server of MLflow, read with its client."""

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

import resnetd
from deploy.ray_head import free_ports
from service.settings import Settings
from service.states import CheckpointPart, Reason
from service.storage.tables import MlflowRunRow
from tests.client.conftest import Command
from tests.client.service import Service
from tests.support.core import ENVIRONMENT, content
from tests.support.fake_api import eventually
from tests.support.mlflow import starting_mlflow
from workers.dispatcher.mlflow_mirror import MlflowMirror

pytestmark = pytest.mark.slow  # MLflow's client and server take seconds to start


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with starting_mlflow(tmp_path_factory.mktemp("mlflow")) as server:
        server.wait()
        yield server.url


@pytest.fixture
def tracking(mlflow_url: str) -> Any:
    from mlflow.tracking import MlflowClient  # noqa: PLC0415 - it takes seconds

    return MlflowClient(mlflow_url)


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of an experiment of the test's own."""
    name: str = request.node.name
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
    return name


def _find_runs(tracking: Any, experiment: str) -> list[Any]:
    found = tracking.get_experiment_by_name(experiment)
    return list(tracking.search_runs([found.experiment_id]))


def test_a_second_export_completes_the_run_of_the_first(
    service: Service, command: Command, tracking: Any, experiment: str, mlflow_url: str
) -> None:
    training = service.run(name="plain", tags=["course", "week-1"])
    training.report(environment=ENVIRONMENT)
    training.progress(10, test_error=50.0, train_loss=None)
    assert command("export", training.job_id, "--to", "mlflow", mlflow_url) == 0, command.err
    (run,) = _find_runs(tracking, experiment)
    assert (run.info.status, run.info.run_name) == ("RUNNING", "plain")
    assert math.isnan(run.data.metrics["train/loss"])

    service.api.call("PATCH", f"/v1/jobs/{training.job_id}", json={"name": "best", "priority": 7})
    training.progress(20, test_error=2.5)
    parts = (CheckpointPart.WEIGHTS, CheckpointPart.STATE, CheckpointPart.ONNX)
    training.save(20, test_error=2.5, parts=parts)
    training.finish()
    for _ in range(2):
        assert command("export", training.job_id, "--to", "mlflow", mlflow_url) == 0, command.err
    (again,) = _find_runs(tracking, experiment)
    job = service.api.get(f"/v1/jobs/{training.job_id}").json()
    assert again.info.run_id == run.info.run_id
    assert (again.info.status, again.info.run_name) == ("FINISHED", "best")
    assert again.data.params["recipe.learning_rate"] == "0.1"
    assert again.data.params["depth"] == "8"
    assert {"name", "tags", "priority"}.isdisjoint(again.data.params)
    assert again.data.tags["resnetd.job_id"] == job["id"]
    assert again.data.tags["resnetd.tags"] == "course, week-1"
    assert again.data.tags["mlflow.source.git.commit"] == "c" * 40
    assert again.data.metrics["result/test_error"] == 2.5
    history = tracking.get_metric_history(run.info.run_id, "test/error")
    series = service.api.get(f"/v1/jobs/{job['id']}/metrics").json()["series"]["test/error"]
    assert [(point.step, point.value, point.timestamp) for point in history] == [
        (iteration, value, round(at * 1000))
        for iteration, value, at in zip(
            series["iterations"], series["values"], series["times"], strict=True
        )
    ]
    weights = tracking.download_artifacts(run.info.run_id, "weights/best.safetensors")
    assert Path(weights).read_bytes() == content(CheckpointPart.WEIGHTS, 20)
    onnx = Path(tracking.download_artifacts(run.info.run_id, "onnx"))
    assert (onnx / "model.onnx").read_bytes() == content(CheckpointPart.ONNX, 20)
    assert (onnx / "MLmodel").exists()


def _list_sent_tags(service: Service, job_id: str) -> list[str]:
    with service.core.database.reading() as session:
        row = session.get(MlflowRunRow, job_id)
        return [] if row is None else list(row.sent_tags)


def test_an_export_completes_the_run_of_the_mirror(
    service: Service, command: Command, tracking: Any, experiment: str, mlflow_url: str
) -> None:
    training = service.run(tags=["course"])
    training.progress(10, test_error=50.0, train_loss=None)
    settings = Settings(mlflow_url=SecretStr(mlflow_url), mlflow_experiment=experiment)
    mirror = MlflowMirror.of(settings, service.core.database, now=service.core.clock)
    assert mirror is not None
    stopping = threading.Event()
    thread = mirror.start(stopping)
    eventually(lambda: _list_sent_tags(service, training.job_id))
    stopping.set()
    thread.join()
    (run,) = _find_runs(tracking, experiment)
    assert (run.info.status, run.data.params["recipe.learning_rate"]) == ("RUNNING", "0.1")
    assert math.isnan(run.data.metrics["train/loss"])

    training.progress(20, test_error=2.5)
    training.save(20, test_error=2.5)
    training.finish()
    service.core.clock.advance(5.0)
    mirror.send_due(threading.Event())
    mirror.close()
    mirrored = tracking.get_run(run.info.run_id)
    assert command("export", training.job_id, "--to", "mlflow", mlflow_url) == 0, command.err
    (exported,) = _find_runs(tracking, experiment)
    assert exported.data.params == mirrored.data.params
    assert exported.data.tags == mirrored.data.tags | {
        "resnetd.url": f"{service.url}/jobs/{training.job_id}"
    }
    assert (exported.info.status, exported.info.end_time) == ("FINISHED", mirrored.info.end_time)
    assert exported.data.metrics["result/test_error"] == 2.5
    for series, number in (("test/error", 2), ("result/test_error", 1)):
        assert len(tracking.get_metric_history(run.info.run_id, series)) == number
    assert tracking.list_artifacts(run.info.run_id, "weights")


def test_trials_are_runs_with_their_search(
    service: Service, client: resnetd.Client, tracking: Any, experiment: str, mlflow_url: str
) -> None:
    search_id = service.search(60.0, 4.5)
    failed = service.end(Reason.DIVERGED)
    assert client.export([search_id, failed], "mlflow", mlflow_url) == 3
    runs = {run.data.tags.get("resnetd.trial"): run for run in _find_runs(tracking, experiment)}
    assert {trial: run.info.status for trial, run in runs.items()} == {
        "1": "FINISHED",
        "2": "FINISHED",
        None: "FAILED",
    }
    assert runs["2"].data.tags["resnetd.search_id"] == search_id
    (best,) = tracking.search_runs(
        [runs["1"].info.experiment_id], order_by=["metrics.`test/error`"], max_results=1
    )
    assert best.data.params["recipe.learning_rate"] == "0.002"


def test_mlflow_loads_the_exported_network(tmp_path: Path) -> None:
    import mlflow.onnx  # noqa: PLC0415 - it takes seconds
    import onnx  # noqa: PLC0415

    from resnetd.exports.mlflow import describe_model  # noqa: PLC0415

    value = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["batch", 3])
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 3])
    node = onnx.helper.make_node("Relu", ["images"], ["logits"])
    graph = onnx.helper.make_graph([node], "network", [value], [logits])
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "model.onnx"))
    describe_model(tmp_path)
    loaded = mlflow.onnx.load_model(str(tmp_path))
    assert loaded.graph.output[0].name == "logits"


def test_a_server_that_is_away_is_named(
    service: Service, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    assert command("export", service.submit(), "--to", "mlflow", url) == 1
    assert command.err.startswith(f"MLflow at {url}: ")
