"""Fixtures: the real API on a port, a transport with faults, and a client with short delays."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import resnetd
from resnetd.cli import app
from tests.client.service import Service
from tests.support.api import TOKEN, Api, serving_new
from tests.support.searching import Searching

QUICK = resnetd.Retry(attempts=3, first_delay_seconds=0.001, max_delay_seconds=0.02)


@pytest.fixture(autouse=True)
def _no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of the user who runs the tests, and a working directory of the test's own."""
    for name in [name for name in os.environ if name.startswith("RESNETD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")


@pytest.fixture(scope="session")
def _api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    path = tmp_path_factory.mktemp("client")
    with serving_new(f"sqlite:///{path / 'client.db'}", path) as served:
        yield served


@pytest.fixture
def service(_api: Api) -> Service:
    _api.empty()
    return Service(_api)


@pytest.fixture
def searching(service: Service) -> Searching:
    return Searching(service.core)


@pytest.fixture
def client(service: Service) -> Iterator[resnetd.Client]:
    with resnetd.Client(service.url, TOKEN, retry=QUICK, transport=service.transport) as connected:
        yield connected


class Command:
    """Runs the command in this process; `out` and `err` are of the last run."""

    def __init__(self, service: Service, capsys: pytest.CaptureFixture[str]) -> None:
        self._transport = service.transport
        self._capsys = capsys

    def __call__(self, *arguments: str) -> int:
        code = app.run(arguments, retry=QUICK, transport=self._transport)
        self.out, self.err = self._capsys.readouterr()
        return code


@pytest.fixture
def command(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    monkeypatch.setenv("RESNETD_URL", service.url)
    monkeypatch.setenv("RESNETD_TOKEN", TOKEN)
    return Command(service, capsys)
