"""Dispatchers over each kind of database and a fake cluster in this process."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from service.settings import Settings
from tests.support.cluster import FakeCluster, HealthEndpoint, Make
from tests.support.core import Core
from workers.dispatcher.dispatcher import Dispatcher


@pytest.fixture(scope="session")
def _api_health() -> Iterator[HealthEndpoint]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_well = opened.is_up and self.path == "/v1/health"
            self.send_response(200 if is_well else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        opened = HealthEndpoint(f"http://127.0.0.1:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield opened
        server.shutdown()


@pytest.fixture
def api_health(_api_health: HealthEndpoint) -> HealthEndpoint:
    _api_health.is_up = True
    return _api_health


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def settings(tmp_path: Path, api_health: HealthEndpoint) -> Settings:
    """Without a warm pool: each runner runs one attempt."""
    return Settings(var_dir=tmp_path, api_url=api_health.url, warm_runners=0)


@pytest.fixture
def make(core: Core, cluster: FakeCluster, settings: Settings) -> Make:
    """Makes another dispatcher, with the given settings changed."""

    def made(**fields: Any) -> Dispatcher:
        differing = settings.model_copy(update=fields)
        return Dispatcher(
            differing,
            core.database,
            cluster,
            now=core.clock,
            monotonic=lambda: core.clock.now.timestamp() - cluster.suspended_seconds,
        )

    return made


@pytest.fixture
def dispatcher(make: Make) -> Dispatcher:
    return make()


@pytest.fixture
def with_warm_runner(make: Make) -> Dispatcher:
    """A dispatcher that keeps one runner standing by."""
    return make(warm_runners=1)
