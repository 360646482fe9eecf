"""Commands of the server processes that cannot start: one sentence and exit code 1."""

from collections.abc import Callable
from pathlib import Path

import pytest

import api.__main__
import service.__main__
import workers.__main__
from service.storage import schema
from service.storage.database import Database

COMMANDS: dict[str, Callable[[], int]] = {
    "resnetd-server": lambda: service.__main__.main(["fsck"]),
    "resnetd-api": api.__main__.main,
    "resnetd-worker": lambda: workers.__main__.main(["dispatcher"]),
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A migrated database in `var`."""
    monkeypatch.setenv("RESNETD_VAR_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("RESNETD_API_PORT", "0")
    (tmp_path / "var").mkdir()
    database = Database(f"sqlite:///{tmp_path}/var/resnetd.db")
    schema.upgrade(database)
    database.close()


@pytest.mark.parametrize(
    ("variable", "value", "commands"),
    [
        ("RECORD_RETENTION", "{x", COMMANDS),
        ("DATABASE_URL", "postgresql://me@db:port/x", COMMANDS),
        ("DATABASE_URL", "sqlite:////proc/no/such/folder/resnetd.db", COMMANDS),
        ("DATABASE_URL", "postgresql://me@127.0.0.1:1/x", COMMANDS),
        ("ARTIFACTS_URL", "ftp://host/folder", ("resnetd-api", "resnetd-server")),
        ("ARTIFACTS_URL", "file:///proc/no/such/folder", ("resnetd-api", "resnetd-server")),
        ("TOKEN_FILE", "/proc/no/such/folder/token", ("resnetd-api",)),
        ("SIGNING_KEY_FILE", "/proc/no/such/folder/key", ("resnetd-api",)),
        ("API_HOST", "256.0.0.1", ("resnetd-api",)),
        ("RAY_URL", "ray:8265", ("resnetd-worker",)),
    ],
)
def test_a_process_that_cannot_start_says_why_in_one_sentence(
    variable: str,
    value: str,
    commands: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(f"RESNETD_{variable}", value)
    for name in commands:
        assert COMMANDS[name]() == 1, name
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{name}: ")
        assert variable in line or "database does not respond" in line or "cannot listen" in line


def test_a_download_without_a_network_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # A proxy that nothing listens to: no request leaves this machine.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    target = tmp_path / "data"
    assert workers.__main__.main(["fetch", "cifar10", "--data-dir", str(target)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"resnetd-worker: cannot download cifar10 to {target}/cifar10: ")
    assert "urlopen error" in line  # urllib keeps the proxies of the first request of a process


def test_an_empty_data_dir_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert workers.__main__.main(["fetch", "cifar10", "--data-dir", ""]) == 1
    assert "RESNETD_DATA_DIR: must be a path; received ''" in capsys.readouterr().err
