"""The services that the end-to-end tests share."""

from collections.abc import Iterator

import pytest

import resnetd
from deploy.local import LocalService
from deploy.ray_head import RayHead
from tests.support.bucket import BucketServer
from tests.support.mlflow import MlflowServer, starting_mlflow
from tests.support.postgres import PostgresServer
from tests.support.services import running_service


@pytest.fixture(scope="session")
def service(head: RayHead, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalService]:
    """On SQLite, with a warm runner of two workers and room for no other.

    Jobs of two workers start at once. Tests leave all its processes running.
    """
    path = tmp_path_factory.mktemp("service")
    settings = {"RESNETD_WARM_RUNNER_WORKERS": "2", "RESNETD_MAX_CPUS": "2"}
    with running_service(head, path, **settings) as running:
        yield running


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """Perhaps not yet ready: a mirror waits for it."""
    with starting_mlflow(tmp_path_factory.mktemp("mlflow")) as server:
        yield server


@pytest.fixture(scope="module")
def service_without_warm_runners(
    head: RayHead,
    postgres: PostgresServer,
    buckets: BucketServer,
    mlflow: MlflowServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LocalService]:
    """On PostgreSQL and S3, with a GPU and a mirror; each attempt starts its own runner."""
    path = tmp_path_factory.mktemp("service")
    settings = {
        "RESNETD_WARM_RUNNERS": "0",
        "RESNETD_MAX_GPUS": "1",
        "RESNETD_DATABASE_URL": postgres.new_database(),
        "RESNETD_ARTIFACTS_URL": buckets.new_bucket(),
        "RESNETD_MLFLOW_URL": mlflow.url,
    } | buckets.environment
    with running_service(head, path, **settings) as running:
        yield running


@pytest.fixture
def client(service: LocalService) -> Iterator[resnetd.Client]:
    with resnetd.Client(url=service.url, token=service.token) as opened:
        yield opened
