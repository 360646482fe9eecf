"""The services of docker-compose.yml, started as processes, train a network and stop."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from safetensors.torch import load_file

import resnetd
from tests.deploy.composed import ComposedServices
from tests.support.postgres import PostgresServer

pytestmark = [pytest.mark.db, pytest.mark.ray, pytest.mark.slow]

_JOB = {
    "depth": 8,
    "shortcut": "A",
    "dataset": "digits",
    "recipe": {"name": "quick", "iterations": 20},
}


@pytest.fixture
def composed(postgres: PostgresServer) -> Iterator[ComposedServices]:
    """On a PostgreSQL with the role and the database that its image creates."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE ROLE resnetd LOGIN")
        connection.execute("CREATE DATABASE resnetd OWNER resnetd")
        try:
            with ComposedServices(
                postgres_port=postgres.port, postgres_binaries=postgres.binaries
            ) as services:
                yield services
        finally:
            connection.execute("DROP DATABASE resnetd WITH (FORCE)")
            connection.execute("DROP ROLE resnetd")


def test_a_job_succeeds_on_the_services_of_the_compose_file(
    composed: ComposedServices, tmp_path: Path
) -> None:
    assert composed.is_healthy("postgres")
    composed.up("api")
    assert not composed.is_healthy("dispatcher")

    composed.up("ray-worker")
    composed.up("dispatcher")

    ray_jobs = f"http://127.0.0.1:{composed.ports[8265]}/api/jobs/"
    assert httpx.get(ray_jobs, trust_env=False).status_code == 401
    url = f"http://127.0.0.1:{composed.ports[8000]}"
    assert httpx.get(f"{url}/v1/jobs", trust_env=False).status_code == 401
    with resnetd.Client(url=url, token=composed.secret("resnetd_admin_token")) as client:
        job = client.submit(_JOB)
        job = client.jobs.wait(job.id, timeout_seconds=120.0, check=False)
        assert job.state == "succeeded", (job, composed.log("dispatcher"))
        # The client compares the file with its digest.
        assert load_file(client.jobs.download(job.id, "newest", path=tmp_path))

    composed.stop()
    assert composed.processes() == []
    for port in (composed.ports[8000], composed.ports[6379], composed.ports[8265]):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
