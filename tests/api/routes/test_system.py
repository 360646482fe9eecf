"""Health, the cluster, datasets and recipes."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from api import client_versions
from service.catalog import datasets, recipes
from service.resources import ResourceBundle
from tests.support.api import Api, serving_new
from tests.support.core import START, workers, written
from tests.support.postgres import PostgresServer, postgres_server


def test_health_needs_no_token(any_api: Api) -> None:
    answer = any_api.get("/v1/health", token=None)
    versions = {"version": client_versions.VERSION, "api_version": "1"}
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"} | versions)


@pytest.mark.db
def test_health_is_503_while_the_database_is_down(tmp_path: Path) -> None:
    with postgres_server() as server, serving_new(server.new_database(), tmp_path) as api:
        server.stop(mode="fast")
        for answer in (api.get("/v1/health"), api.get("/v1/jobs"), api.post("/v1/jobs", written())):
            assert (answer.status_code, answer.json()["code"]) == (503, "database-unavailable")
            assert answer.headers["Retry-After"] == "1"
            # Who has no token learns neither the host nor the user.
            assert answer.json()["detail"].startswith("the database is not available")
        server.start()
        assert api.get("/v1/health").status_code == 200
        assert api.post("/v1/jobs", written()).status_code == 201


def test_a_cluster_that_no_dispatcher_has_seen_is_unknown(api: Api) -> None:
    assert api.get("/v1/cluster").json() == {
        "cpus": None,
        "gpus": None,
        "reserved_cpus": 0,
        "reserved_gpus": 0,
        "nodes": [],
        "seen_at": None,
    }


def test_the_cluster_is_returned_with_what_attempts_occupy(api: Api) -> None:
    nodes = [ResourceBundle(cpus=6, gpus=2), ResourceBundle(cpus=4, gpus=0)]
    api.core.record_cluster(cpus=8, gpus=2, nodes=nodes)
    api.core.submit(resources=workers(2, cpus_per_worker=3))
    api.core.claim()
    assert api.get("/v1/cluster").json() == {
        "cpus": 8,
        "gpus": 2,
        "reserved_cpus": 6,
        "reserved_gpus": 2,
        "nodes": [{"cpus": 4, "gpus": 0}, {"cpus": 6, "gpus": 2}],
        "seen_at": START.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _datasets(api: Api) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in api.get("/v1/datasets").json()["datasets"]}


@pytest.fixture
def data(api: Api) -> Iterator[Path]:
    """The folder in which the API finds datasets."""
    api.settings.data_dir.mkdir(exist_ok=True)
    yield api.settings.data_dir
    shutil.rmtree(api.settings.data_dir)


def test_every_data_set_known_by_name_is_listed(api: Api) -> None:
    found = _datasets(api)
    assert set(found) == set(datasets.DATASETS)
    assert found["digits"] == {
        "name": "digits",
        "title": "Optical digits, grayscale (UCI; part of scikit-learn)",
        "origin": "bundled",
        "classes": 10,
        "height": 8,
        "width": 8,
        "train_images": 1437,
        "test_images": 360,
        "default_recipe": "quick",
        "available": True,
        "user": None,
        "sha256": None,
        "class_names": list("0123456789"),
        "skipped": None,
        "jobs": 0,
        "stored_bytes": None,
    }


def test_a_downloaded_data_set_is_available_once_its_folder_exists(api: Api, data: Path) -> None:
    assert not _datasets(api)["cifar10"]["available"]
    (data / "cifar10").mkdir()
    assert _datasets(api)["cifar10"]["available"]
    assert not _datasets(api)["cifar100"]["available"]


def test_a_folder_of_images_is_a_data_set(api: Api, data: Path) -> None:
    for split in ("train", "val"):
        (data / "flowers" / split).mkdir(parents=True)
    found = _datasets(api)["folder:flowers"]
    assert (found["origin"], found["available"], found["classes"]) == ("folder", True, None)
    assert api.post("/v1/jobs", written(depth=18, dataset="folder:flowers")).status_code == 201


def test_a_folder_with_train_alone_is_a_dataset(api: Api, data: Path) -> None:
    for name in ("b", "a"):
        (data / "flowers" / "train" / name).mkdir(parents=True)
    found = _datasets(api)["folder:flowers"]
    assert (found["available"], found["class_names"]) == (True, ["a", "b"])


@pytest.mark.parametrize("name", ["no-train", "only-test/test"])
def test_a_folder_without_train_is_not_a_dataset(api: Api, data: Path, name: str) -> None:
    (data / name).mkdir(parents=True)
    assert set(_datasets(api)) == set(datasets.DATASETS)


@pytest.mark.parametrize("name", [".hidden", "a b"])
def test_a_folder_that_a_spec_cannot_name_is_not_a_dataset(api: Api, data: Path, name: str) -> None:
    for split in ("train", "test"):
        (data / name / split).mkdir(parents=True)
    assert set(_datasets(api)) == set(datasets.DATASETS)


def test_every_recipe_is_listed_with_its_source(api: Api) -> None:
    found = {item["name"]: item for item in api.get("/v1/recipes").json()["recipes"]}
    assert set(found) == set(recipes.RECIPES)
    for name, recipe in found.items():
        assert recipe["source"], name
        assert recipe["fields"]["name"] == name
        assert recipe["fields"].keys() == recipes.Recipe.model_fields.keys()


def test_a_listed_recipe_can_be_submitted(api: Api) -> None:
    for recipe in api.get("/v1/recipes").json()["recipes"]:
        # Every recipe can train on the images of a folder.
        body = written(depth=18, dataset="folder:flowers", recipe=recipe["fields"])
        answer = api.post("/v1/jobs", body)
        assert answer.status_code == 201, answer.text
        assert answer.json()["spec"]["recipe"].items() >= recipe["fields"].items()


@pytest.mark.db
def test_a_read_only_database_answers_503_to_health_and_writes(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """As after a failover: the server ends the sessions, new ones are read-only."""
    url = postgres.new_database()
    name = url.rpartition("/")[2]
    with serving_new(url, tmp_path) as api:
        for is_read_only, expected in ((True, (503, 200, 503)), (False, (200, 200, 201))):
            with psycopg.connect(postgres.url, autocommit=True) as connection:
                value = "on" if is_read_only else "off"
                statement = f"ALTER DATABASE {name} SET default_transaction_read_only = {value}"
                connection.execute(statement.encode())
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s",
                    [name],
                )
            answers = (api.get("/v1/health"), api.get("/v1/jobs"), api.post("/v1/jobs", written()))
            assert tuple(answer.status_code for answer in answers) == expected
            if is_read_only:
                codes = {answers[0].json()["code"], answers[2].json()["code"]}
                assert codes == {"database-unavailable"}


@contextmanager
def _unprivileged() -> Iterator[None]:
    """Root may write to read-only files; the user 65534 may not."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_read_only_sqlite_file_answers_503_to_health_and_writes(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        file = Path(directory, "resnetd.db")
        file.touch()
        file.chmod(0o666)
        with serving_new(f"sqlite:///{file}", tmp_path) as api:
            for mode, expected in ((0o444, (503, 200, 503)), (0o666, (200, 200, 201))):
                file.chmod(mode)
                with _unprivileged():
                    answers = (
                        api.get("/v1/health"),
                        api.get("/v1/jobs"),
                        api.post("/v1/jobs", written()),
                    )
                assert tuple(answer.status_code for answer in answers) == expected
