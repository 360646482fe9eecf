"""Fixtures: a fake service on a port of its own, and a client that retries without delay."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import resnetd
from resnetd import cli
from tests.client.fake_service import TOKEN, FakeService

QUICK = resnetd.Retry(attempts=3, first_delay_seconds=0.001, longest_delay_seconds=0.02)


@pytest.fixture(autouse=True)
def _no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of whoever runs the tests, and a folder of the test's own to be in."""
    for name in [name for name in os.environ if name.startswith("RESNETD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def service() -> Iterator[FakeService]:
    fake = FakeService()
    fake.start()
    yield fake
    if fake._server is not None:
        fake.stop()


@pytest.fixture
def client(service: FakeService) -> Iterator[resnetd.Client]:
    with resnetd.Client(service.url, TOKEN, retry=QUICK) as connected:
        yield connected


class Command:
    """The command in this process; `out` and `err` are of the last run."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> int:
        code = cli.run(arguments, retry=QUICK)
        self.out, self.err = self._capsys.readouterr()
        return code


@pytest.fixture
def command(
    service: FakeService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    monkeypatch.setenv("RESNETD_URL", service.url)
    monkeypatch.setenv("RESNETD_TOKEN", TOKEN)
    return Command(capsys)
