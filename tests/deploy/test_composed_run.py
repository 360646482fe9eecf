"""The services of docker-compose.yml, started as processes, train a network and stop."""

import hashlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest

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


def test_a_job_succeeds_on_the_services_of_the_compose_file(composed: ComposedServices) -> None:
    assert composed.is_healthy("postgres")
    composed.up("api")
    assert not composed.is_healthy("dispatcher")

    composed.up("ray-worker")
    composed.up("dispatcher")

    ray_jobs = f"http://127.0.0.1:{composed.ports[8265]}/api/jobs/"
    assert httpx.get(ray_jobs, trust_env=False).status_code == 401
    api_url = f"http://127.0.0.1:{composed.ports[8000]}/v1"
    assert httpx.get(f"{api_url}/jobs", trust_env=False).status_code == 401
    headers = {"Authorization": f"Bearer {composed.secret('resnetd_admin_token')}"}
    with httpx.Client(base_url=api_url, headers=headers, trust_env=False) as api:
        job = api.post("/jobs", json=_JOB).raise_for_status().json()
        job = _until_final(api, job["id"])
        assert job["state"] == "succeeded", (job, composed.log("dispatcher"))
        weights = api.get(f"/jobs/{job['id']}/checkpoints/newest/weights").raise_for_status()
        assert hashlib.sha256(weights.content).hexdigest() == weights.headers["ETag"].strip('"')

    composed.stop()
    assert composed.processes() == []
    for port in (composed.ports[8000], composed.ports[6379], composed.ports[8265]):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0


def _until_final(api: httpx.Client, job_id: str) -> Any:
    deadline = time.monotonic() + 120.0
    while True:
        job = api.get(f"/jobs/{job_id}").raise_for_status().json()
        if job["state"] in ("succeeded", "failed", "cancelled"):
            return job
        assert time.monotonic() < deadline, job
        time.sleep(0.2)
