"""Routes of datasets."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.catalog import uploads
from tests.service.catalog.test_uploads import SPLIT, zipped
from tests.support.api import TOKEN, Api
from tests.support.fake_api import eventually


@pytest.fixture(autouse=True)
def _no_data_afterwards(request: pytest.FixtureRequest) -> Iterator[None]:
    names = {"api", "any_api", "own_api"} & set(request.fixturenames)
    served: list[Api] = [request.getfixturevalue(name) for name in names]
    yield
    for api in served:
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
    assert 1e8 < plan["tensor_bytes"] < 2e9
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


MISSING = [
    ({"dataset": "folder:brids", "depth": 18, "shortcut": "B"}, "nearest: folder:birds"),
    ({"dataset": "folder:digits", "depth": 18, "shortcut": "B"}, "nearest: digits"),
    ({"dataset": "imagenet", "depth": 18, "shortcut": "B"}, "imagenet/train/<class>/"),
    ({"dataset": "cifar10", "depth": 20, "shortcut": "A"}, "resnetd-worker fetch cifar10"),
]


@pytest.mark.parametrize(("spec", "message"), MISSING)
def test_a_dataset_that_the_data_directory_lacks_is_refused_by_every_submission(
    api: Api, tmp_path: Path, spec: dict[str, Any], message: str
) -> None:
    search = {"job": spec, "space": {"seed": {"choice": [0, 1]}}, "budget": {"trials": 1}}
    plan = api.post("/v1/jobs:plan", spec)
    assert "the API does not see the data directory" in plan.json()["notes"][0]
    job_id = api.post("/v1/jobs", spec).json()["id"]
    (submitted,) = api.get(f"/v1/jobs/{job_id}/events").json()["events"]
    assert "shows when the job starts" in submitted["data"]["warning"]
    body = zipped(tmp_path / "birds.zip", SPLIT).read_bytes()
    assert api.call("POST", "/v1/datasets?name=birds", content=body).status_code == 201
    for path, request, pointer in (
        ("/v1/jobs:plan", spec, "/dataset"),
        ("/v1/jobs", spec, "/dataset"),
        ("/v1/jobs:batch", {"jobs": [spec]}, "/jobs/0/dataset"),
        (f"/v1/jobs/{job_id}/clone", {}, "/dataset"),
        ("/v1/searches", search, "/job/dataset"),
    ):
        answer = api.post(path, request)
        assert answer.status_code == 422, path
        (error,) = answer.json()["errors"]
        assert (error["pointer"], message in error["message"]) == (pointer, True), error


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
                "location": "body",
                "pointer": "/start_from/weights",
                "message": "there is no file resnet18.pth in weights/ of the data directory",
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
    detail = "'birds/train/robin/bad.png' cannot be decoded: its format is not known"
    assert answer.json()["detail"] == detail


def test_an_upload_with_another_checksum_is_refused(api: Api) -> None:
    answer = api.call(
        "POST",
        "/v1/datasets?name=birds",
        content=b"x",
        headers={"X-Content-SHA256": "0" * 64},
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "corrupt-artifact")


def _upload(api: Api, tmp_path: Path, token: str = TOKEN, name: str = "birds") -> httpx.Response:
    body = zipped(tmp_path / "birds.zip", SPLIT).read_bytes()
    return api.call("POST", f"/v1/datasets?name={name}", content=body, token=token)


def _listed(api: Api, name: str) -> dict[str, Any]:
    found = {item["name"]: item for item in api.get("/v1/datasets").json()["datasets"]}
    view: dict[str, Any] = found[name]
    return view


def test_a_list_has_the_owner_the_size_and_the_jobs_of_an_upload(api: Api, tmp_path: Path) -> None:
    _upload(api, tmp_path, api.add_person("ann"))
    images = [*(api.settings.data_dir / "birds").glob("*/*/*.png")]
    api.post("/v1/jobs", {"depth": 18, "shortcut": "B", "dataset": "folder:birds"})
    found = _listed(api, "folder:birds")
    assert (found["user"], found["jobs"]) == ("ann", 1)
    assert found["stored_bytes"] == sum(image.stat().st_size for image in images)
    assert len(images) == len(SPLIT)
    assert _listed(api, "digits")["stored_bytes"] is None


def test_an_upload_is_deleted_by_its_owner_once_nothing_needs_it(
    any_api: Api, tmp_path: Path
) -> None:
    before = any_api.list_audit("dataset-deleted")
    ann, ben = any_api.add_person("ann"), any_api.add_person("ben")
    assert _upload(any_api, tmp_path, ann).status_code == 201
    spec = {"depth": 18, "shortcut": "B", "dataset": "folder:birds"}
    job_id = any_api.post("/v1/jobs", spec, token=ben).json()["id"]
    searched = spec | {"recipe": {"validation_images": 2}}
    search = {"job": searched, "space": {"seed": {"choice": [1, 2]}}, "budget": {"trials": 2}}
    answer = any_api.post("/v1/searches", search, token=ben)
    assert answer.status_code == 201, answer.text
    search_id = answer.json()["id"]

    def delete(token: str) -> tuple[int, str]:
        answer = any_api.call("DELETE", "/v1/datasets/folder:birds", token=token)
        return answer.status_code, answer.json()["detail"] if answer.content else ""

    assert delete(ben) == (
        403,
        "only ann, who owns dataset folder:birds, or an admin may do this; ben is a member",
    )
    assert delete(ann) == (
        409,
        f"folder:birds is needed by job {job_id}, search {search_id}; cancel or delete them first",
    )
    any_api.post(f"/v1/jobs/{job_id}/cancel")
    any_api.post(f"/v1/searches/{search_id}/cancel")
    assert delete(ann) == (204, "")
    assert delete(ann) == (404, "no uploaded dataset 'folder:birds'")
    eventually(lambda: not [*any_api.settings.data_dir.iterdir()])
    (entry,) = any_api.list_audit("dataset-deleted", but=before)
    assert (entry["user"], entry["subject"]) == ("ann", "folder:birds")
    assert _upload(any_api, tmp_path, ben).status_code == 201, "the name is free"


def test_a_refusal_names_no_job_that_the_owner_does_not_see(own_api: Api, tmp_path: Path) -> None:
    ann, ben = own_api.add_person("ann"), own_api.add_person("ben")
    assert _upload(own_api, tmp_path, ann).status_code == 201
    spec = {"depth": 18, "shortcut": "B", "dataset": "folder:birds"}
    own = own_api.post("/v1/jobs", spec, token=ann).json()["id"]
    own_api.post("/v1/jobs", spec, token=ben)
    refused = own_api.call("DELETE", "/v1/datasets/folder:birds", token=ann)
    assert refused.json()["detail"] == (
        f"folder:birds is needed by job {own}, 1 other; cancel or delete them first"
    )
    own_api.post(f"/v1/jobs/{own}/cancel")
    refused = own_api.call("DELETE", "/v1/datasets/folder:birds", token=ann)
    assert refused.json()["detail"].startswith("folder:birds is needed by 1 job; ")


def test_a_folder_that_was_not_uploaded_is_not_deleted(api: Api) -> None:
    folder = api.settings.data_dir / "flowers"
    (folder / "train" / "a").mkdir(parents=True)
    assert api.call("DELETE", "/v1/datasets/folder:flowers").status_code == 404
    assert folder.is_dir()


def test_an_upload_beyond_a_quota_of_storage_leaves_nothing(any_api: Api, tmp_path: Path) -> None:
    token = any_api.add_person("ann")
    size = sum(len(image) for image in SPLIT.values())
    any_api.core.set_quota("user:ann", stored_bytes=2 * size - 1)
    assert _upload(any_api, tmp_path, token).status_code == 201
    refused = _upload(any_api, tmp_path, token, "more")
    assert (refused.status_code, refused.json()["code"]) == (409, "quota-exceeded")
    assert "and this needs" in refused.json()["detail"]
    assert [path.name for path in any_api.settings.data_dir.iterdir()] == ["birds"]
    any_api.core.set_quota("user:ann", stored_bytes=2 * size)
    assert _upload(any_api, tmp_path, token, "more").status_code == 201


def test_an_upload_needs_a_token(api: Api) -> None:
    assert api.call("POST", "/v1/datasets?name=birds", content=b"", token=None).status_code == 401
