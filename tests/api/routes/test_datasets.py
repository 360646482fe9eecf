"""Routes of data sets."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

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
