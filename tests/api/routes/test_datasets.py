"""Routes of datasets."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.catalog import uploads
from tests.service.catalog.test_uploads import SPLIT, zipped
from tests.support.api import Api


@pytest.fixture(autouse=True)
def _no_data_afterwards(api: Api) -> Iterator[None]:
    yield
    shutil.rmtree(api.settings.data_dir, ignore_errors=True)


def test_an_upload_is_listed_and_can_be_trained_on(api: Api, tmp_path: Path) -> None:
    body = zipped(tmp_path / "birds.zip", SPLIT).read_bytes()
    sha256 = hashlib.sha256(body).hexdigest()
    answer = api.call(
        "POST",
        "/v1/datasets?name=birds",
        content=body,
        headers={"X-Content-SHA256": sha256},
    )
    assert answer.status_code == 201
    assert (answer.json()["name"], answer.json()["sha256"]) == ("folder:birds", sha256)
    listed = {item["name"]: item for item in api.get("/v1/datasets").json()["datasets"]}
    assert listed["folder:birds"] == answer.json()
    job = api.post("/v1/jobs", {"depth": 18, "shortcut": "B", "dataset": "folder:birds"})
    assert job.status_code == 201


def test_the_plan_for_a_small_upload_knows_its_size_and_names_a_shorter_recipe(
    api: Api, tmp_path: Path
) -> None:
    body = zipped(tmp_path / "birds.zip", SPLIT).read_bytes()
    assert api.call("POST", "/v1/datasets?name=birds", content=body).status_code == 201
    spec = {"depth": 18, "shortcut": "B", "dataset": "folder:birds"}
    plan = api.post("/v1/jobs:plan", spec).json()
    assert plan["spec"]["recipe"]["name"] == "paper-imagenet"
    assert plan["parameters"] == 11_177_538, "torchvision's resnet18 with two classes"
    assert plan["multiply_adds"] == 1_813_562_368
    assert 1e8 < plan["memory_bytes"] < 2e9
    assert plan["epochs"] == 600_000 * 256 / 6
    (note,) = plan["notes"]
    assert "recipe paper-imagenet sees each of 6 training images 25,600,000 times" in note
    assert "recipe fine-tune sees each 5,333 times" in note
    shorter = api.post("/v1/jobs:plan", spec | {"recipe": {"iterations": 5}}).json()
    assert shorter["notes"] == []


def test_a_folder_with_uncounted_images_is_planned_by_its_classes(api: Api) -> None:
    for name in ("a", "b", "c"):
        (api.settings.data_dir / "flowers" / "train" / name).mkdir(parents=True)
    spec = {"depth": 18, "shortcut": "B", "dataset": "folder:flowers"}
    plan = api.post("/v1/jobs:plan", spec).json()
    assert plan["parameters"] == 11_178_051
    assert (plan["epochs"], plan["notes"]) == (None, [])


def test_every_submission_is_checked_against_the_images_of_an_upload(
    api: Api, tmp_path: Path
) -> None:
    body = zipped(tmp_path / "birds.zip", SPLIT).read_bytes()
    api.call("POST", "/v1/datasets?name=birds", content=body)
    good = {"depth": 18, "shortcut": "B", "dataset": "folder:birds"}
    change = {"recipe": {"validation_images": 6}}
    original = api.post("/v1/jobs", good).json()["id"]
    held_out = {"recipe.validation_images": {"choice": [0, 6]}}
    for path, request, pointer in (
        ("/v1/jobs:plan", good | change, "/recipe"),
        ("/v1/jobs", good | change, "/recipe"),
        ("/v1/jobs:batch", {"jobs": [good, good | change]}, "/jobs/1/recipe"),
        (f"/v1/jobs/{original}/clone", change, "/recipe"),
        (
            "/v1/searches",
            {"job": good, "space": held_out},
            "/space/recipe.validation_images/choice",
        ),
    ):
        answer = api.post(path, request)
        assert answer.status_code == 422, path
        (error,) = answer.json()["errors"]
        assert error["pointer"] == pointer
        assert "less than the number of training images of folder:birds, 6" in error["message"]
    assert len(api.get("/v1/jobs").json()["jobs"]) == 1


def test_published_weights_that_do_not_exist_are_refused(api: Api) -> None:
    spec = {
        "depth": 18,
        "shortcut": "B",
        "dataset": "fake",
        "start_from": {"weights": "resnet18.pth"},
    }
    assert api.post("/v1/jobs", spec).status_code == 201, "the API may not see the data directory"
    weights = api.settings.data_dir / "weights"
    weights.mkdir(parents=True)
    for path in ("/v1/jobs:plan", "/v1/jobs"):
        answer = api.post(path, spec)
        assert answer.status_code == 422
        assert answer.json()["errors"] == [
            {
                "pointer": "/start_from/weights",
                "message": f"there is no file resnet18.pth in {weights}",
            }
        ]
    (weights / "resnet18.pth").touch()
    assert api.post("/v1/jobs", spec).status_code == 201


def test_no_dataset_can_have_the_name_of_the_folder_of_published_weights(
    api: Api, tmp_path: Path
) -> None:
    body = zipped(tmp_path / "x.zip", SPLIT).read_bytes()
    answer = api.call("POST", "/v1/datasets?name=weights", content=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")
    assert "and not 'weights'" in answer.json()["detail"]
    assert not (api.settings.data_dir / "weights").exists()


def test_an_upload_reports_its_classes_and_what_it_skipped(api: Api, tmp_path: Path) -> None:
    files = SPLIT | {"birds/README.md": b"x", "birds/train/robin/Thumbs.db": b"x"}
    body = zipped(tmp_path / "birds.zip", files).read_bytes()
    answer = api.call("POST", "/v1/datasets?name=birds", content=body).json()
    assert answer["class_names"] == ["robin", "wren"]
    assert answer["skipped"] == {"documents": 1, "system files": 1}


def test_a_full_disk_is_answered_as_unavailable(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    body = zipped(tmp_path / "birds.zip", SPLIT).read_bytes()
    monkeypatch.setattr(uploads, "_copy", fail)
    answer = api.call("POST", "/v1/datasets?name=birds", content=body)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert answer.json()["detail"] == "uploads cannot be stored now: No space left on device"


def test_an_upload_with_a_broken_image_is_refused_with_its_path(api: Api, tmp_path: Path) -> None:
    broken = SPLIT | {"birds/train/robin/bad.png": b"x"}
    body = zipped(tmp_path / "birds.zip", broken).read_bytes()
    answer = api.call("POST", "/v1/datasets?name=birds", content=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input")
    assert "birds/train/robin/bad.png" in answer.json()["detail"]


def test_an_upload_with_another_checksum_is_refused(api: Api) -> None:
    answer = api.call(
        "POST",
        "/v1/datasets?name=birds",
        content=b"x",
        headers={"X-Content-SHA256": "0" * 64},
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "corrupt-artifact")


def test_an_upload_needs_a_token(api: Api) -> None:
    assert api.call("POST", "/v1/datasets?name=birds", content=b"", token=None).status_code == 401
