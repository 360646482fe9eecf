"""Jobs from the request to the weights, through all processes of the service."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import torchvision
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import resnetd
from deploy.local import LocalService
from service.specs.job_spec import JobSpec
from tests.support.fake_api import eventually
from tests.support.mlflow import MlflowServer
from tests.support.training import expected_points, points_of_job

pytestmark = [pytest.mark.ray, pytest.mark.slow]

JOB_SECONDS = 180.0
TINY = {"name": "quick", "iterations": 60, "evaluate_every": 30, "checkpoint_every": 30}
# For these a warm runner waits.
TWO_WORKERS = {"num_workers": 2}


@pytest.mark.parametrize(
    ("deployment", "resources"),
    [
        pytest.param("service", TWO_WORKERS, id="two workers, SQLite, warm runner"),
        pytest.param(
            "service_without_warm_runners",
            {"gpus_per_worker": 0.5},
            id="half a GPU, PostgreSQL, S3, own runner, MLflow",
            marks=pytest.mark.db,
        ),
    ],
)
def test_a_job_trains_reports_and_leaves_weights_that_load(
    deployment: str,
    resources: dict[str, Any],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    service: LocalService = request.getfixturevalue(deployment)
    with resnetd.Client(url=service.url, token=service.token) as client:
        job = client.submit(
            depth=8, shortcut="A", dataset="digits", recipe=TINY, resources=resources
        )
        _check_a_complete_job(client, job, tmp_path)
        if deployment == "service_without_warm_runners":
            _check_its_run_in_mlflow(client, job.id, request.getfixturevalue("mlflow"))


def _check_its_run_in_mlflow(client: resnetd.Client, job_id: str, mlflow: MlflowServer) -> None:
    """The mirror has the training: its status, its spec, and each point with its time."""
    with httpx.Client(base_url=f"{mlflow.url}/api/2.0/mlflow", trust_env=False) as http:

        def find_run() -> Any:
            found = http.get("/experiments/get-by-name", params={"experiment_name": "resnetd"})
            if not found.is_success:
                return None
            ids = [found.json()["experiment"]["experiment_id"]]
            runs = http.post("/runs/search", json={"experiment_ids": ids}).json().get("runs", [])
            ended = [run for run in runs if run["info"]["status"] == "FINISHED"]
            return ended[0] if ended else None

        mlflow.wait()
        eventually(find_run, within_seconds=60.0, poll_seconds=0.2)
        run = find_run()
        tags = {tag["key"]: tag["value"] for tag in run["data"]["tags"]}
        params = {param["key"]: param["value"] for param in run["data"]["params"]}
        assert (tags["resnetd.job_id"], params["recipe.iterations"]) == (job_id, "60")
        for name, series in client.jobs.metrics(job_id).items():
            query = {"run_id": run["info"]["run_id"], "metric_key": name}
            history = http.get("/metrics/get-history", params=query).json()["metrics"]
            points = [(int(point["step"]), point["timestamp"]) for point in history]
            assert points == [
                (iteration, round(1000 * time))
                for iteration, time in zip(series.iterations, series.times, strict=True)
            ], name


def _check_a_complete_job(client: resnetd.Client, job: resnetd.Job, folder: Path) -> None:
    """Follows the job to its end and downloads what it left."""
    kinds = [event.kind for event in client.jobs.watch(job.id)]
    job = client.jobs.get(job.id)

    assert job.state == "succeeded", job.message
    assert job.result is not None
    assert job.parameters == 75_290
    assert {"submitted", "state", "attempt", "checkpoint"} <= set(kinds)
    spec = JobSpec.model_validate(job.document["spec"])
    assert points_of_job(client, job.id) == expected_points(spec)
    newest, *_ = client.jobs.checkpoints(job.id)
    assert newest.iteration == 60
    assert newest.test_error == job.result.test_error

    safetensors = client.jobs.download(job.id, "newest", path=folder / "net.safetensors")
    pt = client.jobs.download(job.id, "newest", format="pt", path=folder / "net.pt")
    with safe_open(safetensors, framework="pt") as opened:
        metadata = opened.metadata()
    assert json.loads(metadata["spec"])["depth"] == 8
    state_dict = torch.load(pt, weights_only=True)
    weights = load_file(safetensors)
    assert state_dict.keys() == weights.keys()
    assert all(torch.equal(state_dict[name], tensor) for name, tensor in weights.items())


def test_weights_trained_on_an_image_folder_load_into_torchvision(
    service: LocalService, client: resnetd.Client, tmp_path: Path
) -> None:
    for part in ("train", "test"):
        for colour, name in (((200, 30, 30), "red"), ((30, 30, 200), "blue")):
            folder = service.var_path / "data" / "colours" / part / name
            folder.mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (70 + number, 64), colour).save(folder / f"{number}.png")

    job = client.submit(
        depth=18,
        shortcut="B",
        dataset="folder:colours",
        recipe={"name": "quick", "iterations": 2, "batch_size": 4},
        resources=TWO_WORKERS,
    )
    job = client.jobs.wait(job.id, timeout_seconds=JOB_SECONDS)
    assert job.state == "succeeded", job.message

    network = torchvision.models.resnet18(num_classes=2)
    network.load_state_dict(load_file(client.jobs.download(job.id, path=tmp_path)), strict=True)


def test_a_deepened_network_starts_with_the_error_of_the_shallower_one(
    client: resnetd.Client,
) -> None:
    shallow = client.submit(
        depth=8, shortcut="A", dataset="digits", recipe=TINY, resources=TWO_WORKERS
    )
    shallow = client.jobs.wait(shallow.id, timeout_seconds=JOB_SECONDS)
    deep = client.submit(
        depth=14,
        shortcut="A",
        dataset="digits",
        recipe=TINY | {"learning_rate": 1e-6},
        resources=TWO_WORKERS,
        start_from={"job": shallow.id, "mode": "deepen"},
    )
    deep = client.jobs.wait(deep.id, timeout_seconds=JOB_SECONDS)

    assert "starting with the weights of another job" in {
        line.message for line in client.jobs.logs(deep.id)
    }
    assert shallow.result is not None
    assert deep.result is not None
    assert deep.result.test_error is not None
    assert shallow.result.test_error is not None
    # At this learning rate the deeper network learns nothing itself.
    assert abs(deep.result.test_error - shallow.result.test_error) < 5.0


def test_the_command_line_submits_watches_analyses_and_downloads(
    service: LocalService, tmp_path: Path
) -> None:
    def run_resnetd(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).parent / "resnetd"), *arguments],
            env={"RESNETD_URL": service.url, "RESNETD_TOKEN_FILE": str(service.token_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=JOB_SECONDS,
        )

    watched = run_resnetd(
        *("submit", "--depth", "8", "--shortcut", "B", "--dataset", "digits"),
        *("--recipe", "quick", "--watch"),
        *("--set", "recipe.iterations=20", "--set", "resources.num_workers=2"),
    )
    assert watched.returncode == 0, watched.stderr
    job_id = watched.stdout.split()[0]
    saved = run_resnetd("download", job_id, "--to", str(tmp_path / "net.safetensors"))
    assert saved.returncode == 0, saved.stderr
    assert "layer1.0.conv1.weight" in load_file(tmp_path / "net.safetensors")
    listed = run_resnetd("ps", "--all", "-o", "json")
    states = {job["id"]: job["state"] for job in json.loads(listed.stdout)}
    assert states[job_id] == "succeeded"

    figure = str(tmp_path / "errors.svg")
    analysed = run_resnetd("analyse", job_id, "evaluation", "--figure", figure, "-o", "json")
    assert analysed.returncode == 0, analysed.stderr
    *_, result = analysed.stdout.partition('"numbers"')
    shown = run_resnetd("show", job_id, "-o", "json")
    trained = json.loads(shown.stdout)["result"]["test_error"]
    assert f'"test_error": {trained}' in result
    assert Path(figure).read_text().startswith("<?xml")

    card = str(tmp_path / "card.json")
    written = run_resnetd("result-card", job_id, "-o", card)
    assert written.returncode == 0, written.stderr
    data = ("--data", str(service.var_path / "data"))
    verified = run_resnetd("verify", card, str(tmp_path / "net.safetensors"), *data)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert verified.stdout.splitlines()[-1].endswith(", as on the card")
