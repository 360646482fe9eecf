"""One job from the request to the weights, through every process that there is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import resnetd
from deploy.local import LocalService
from service.specs.job_spec import JobSpec
from tests.support.training import expected_points, is_past, told_points, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow]

JOB_SECONDS = 180.0
TINY = {"name": "quick", "iterations": 60, "evaluate_every": 30, "checkpoint_every": 30}


def test_a_job_of_two_workers_trains_reports_and_leaves_weights_that_load(
    client_of_either: resnetd.Client, tmp_path: Path
) -> None:
    client = client_of_either
    job = client.submit(
        depth=8, shortcut="A", dataset="digits", recipe=TINY, resources={"num_workers": 2}
    )

    kinds = [event.kind for event in client.follow(job.id)]
    job = client.job(job.id)

    assert job.state == "succeeded", job.message
    assert job.result is not None
    assert job.parameters == 75_290
    assert {"submitted", "state", "attempt", "checkpoint"} <= set(kinds)
    spec = JobSpec.model_validate(job.document["spec"])
    assert told_points(client, job.id) == expected_points(spec)
    newest, *_ = client.checkpoints(job.id)
    assert newest.iteration == 60
    assert newest.test_error == job.result.test_error

    safetensors = client.download(job.id, "newest", path=tmp_path / "net.safetensors")
    pt = client.download(job.id, "newest", format="pt", path=tmp_path / "net.pt")
    with safe_open(safetensors, framework="pt") as opened:
        metadata = opened.metadata()
    assert json.loads(metadata["spec"])["depth"] == 8
    state_dict = torch.load(pt, weights_only=True)
    assert state_dict.keys() == load_file(safetensors).keys()
    assert all(torch.equal(state_dict[key], one) for key, one in load_file(safetensors).items())


def test_a_network_trained_on_an_image_folder_is_a_torchvision_resnet(
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
        resources={"num_workers": 2},
    )
    job = client.wait(job.id, timeout_seconds=JOB_SECONDS)
    assert job.state == "succeeded", job.message

    theirs = torchvision.models.resnet18(num_classes=2)
    theirs.load_state_dict(load_file(client.download(job.id, path=tmp_path)), strict=True)


def test_a_running_job_that_is_cancelled_stops_and_keeps_its_checkpoint(
    client: resnetd.Client,
) -> None:
    job = client.submit(
        depth=20,
        shortcut="A",
        dataset="digits",
        recipe={"name": "paper-cifar"},
        resources={"num_workers": 2},
    )
    wait_until(client, job.id, is_past(5), seconds=JOB_SECONDS)

    client.cancel(job.id)
    job = client.wait(job.id, timeout_seconds=30.0, is_checked=False)

    assert (job.state, job.reason) == ("cancelled", "cancelled")
    newest, *_ = client.checkpoints(job.id)
    assert newest.iteration >= 5


def test_a_deeper_network_begins_with_what_a_shallower_one_has_learnt(
    client: resnetd.Client,
) -> None:
    two = {"num_workers": 2}
    shallow = client.submit(depth=8, shortcut="A", dataset="digits", recipe=TINY, resources=two)
    shallow = client.wait(shallow.id, timeout_seconds=JOB_SECONDS)
    deep = client.submit(
        depth=14,
        shortcut="A",
        dataset="digits",
        recipe=TINY | {"learning_rate": 1e-6},
        resources=two,
        start_from={"job": shallow.id, "mode": "deepen"},
    )
    deep = client.wait(deep.id, timeout_seconds=JOB_SECONDS)

    assert "begins with another job's weights" in {line.message for line in client.logs(deep.id)}
    assert shallow.result is not None
    assert deep.result is not None
    assert deep.result.test_error is not None
    assert shallow.result.test_error is not None
    # Without learning anything itself.
    assert abs(deep.result.test_error - shallow.result.test_error) < 5.0


def test_the_command_submits_watches_and_downloads(service: LocalService, tmp_path: Path) -> None:
    def resnetd_command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).parent / "resnetd"), *words],
            env={"RESNETD_URL": service.url, "RESNETD_TOKEN_FILE": str(service.token_path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=JOB_SECONDS,
        )

    watched = resnetd_command(
        *[
            "submit",
            "--depth",
            "8",
            "--shortcut",
            "B",
            "--dataset",
            "digits",
            "--recipe",
            "quick",
            "--watch",
        ],
        *("--set", "recipe.iterations=20", "--set", "resources.num_workers=2"),
    )
    assert watched.returncode == 0, watched.stderr
    job_id = watched.stdout.split()[0]
    saved = resnetd_command("download", job_id, "--to", str(tmp_path / "net.safetensors"))
    assert saved.returncode == 0, saved.stderr
    assert "layer1.0.conv1.weight" in load_file(tmp_path / "net.safetensors")
    listed = resnetd_command("ps", "--all", "-o", "json")
    states = {job["id"]: job["state"] for job in json.loads(listed.stdout)}
    assert states[job_id] == "succeeded"


def test_a_missing_data_set_fails_the_job_with_the_command_that_fetches_it(
    client: resnetd.Client,
) -> None:
    job = client.submit(depth=20, shortcut="A", dataset="cifar10", resources={"num_workers": 2})
    job = client.wait(job.id, timeout_seconds=JOB_SECONDS, is_checked=False)

    assert (job.state, job.reason, job.attempts) == ("failed", "dataset-missing", 1)
    assert job.message is not None
    assert "resnetd-worker fetch cifar10" in job.message
