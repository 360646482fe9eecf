"""How the API stops: readiness first, then what waits, then connections."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from api.__main__ import listen
from api.app import create_app
from api.graceful_server import GracefulServer
from service.settings import Settings
from service.states import RayJobState
from service.storage.database import Database
from tests.support.api import TOKEN
from tests.support.core import Core, job_id_of
from tests.support.fake_api import eventually


@pytest.fixture
def database(own_database: Database) -> Database:
    return own_database


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_stopping_api_answers_while_load_balancers_and_clients_leave_it(
    core: Core, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    settings = Settings(var_dir=tmp_path, database_url=database_url)
    claimed = core.run()
    runner = core.start_warm_runner()
    events = f"/v1/jobs/{job_id_of(claimed)}/events"
    server = GracefulServer(
        create_app(settings, now=core.clock), drain_seconds=60.0, grace_seconds=60, ws="none"
    )
    with (
        listen("127.0.0.1", 0) as listener,
        ThreadPoolExecutor() as pool,
        httpx.Client(
            base_url=f"http://127.0.0.1:{listener.getsockname()[1]}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            trust_env=False,
        ) as http,
    ):
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        eventually(lambda: server.started)

        def poll() -> httpx.Response:
            authorization = {"Authorization": f"Bearer {runner.secret}"}
            path = f"/v1/runners/{runner.id}/next"
            return http.post(path, json={"wait_seconds": 20}, headers=authorization)

        assert http.get("/v1/health").is_success
        polling = pool.submit(poll)
        headers = {"Accept": "text/event-stream"}
        with http.stream("GET", events, headers=headers) as stream:
            lines = stream.iter_lines()
            next(lines)
            eventually(lambda: core.runner(runner.id).state == RayJobState.READY)
            server.should_exit = True
            # Both end as if there was nothing new.
            assert polling.result(10.0).json() == {"assignment": None, "should_exit": False}
            assert not any("succeeded" in line for line in lines)
        health = http.get("/v1/health")
        assert (health.status_code, health.headers["Connection"]) == (503, "close")
        assert poll().status_code == 503
        jobs = http.get("/v1/jobs")
        assert (jobs.status_code, jobs.headers["Connection"]) == (200, "close")
        server.drain_seconds = 0.0
        thread.join()
