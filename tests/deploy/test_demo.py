"""`make demo`: which addresses it prints, and whether it keeps the service up."""

import subprocess
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import resnetd
from deploy import demo
from tests.support.core import START
from tools.check_prose import REPOSITORY

IDS = ["0f3k000000000001", "0f3k000000000002"]
JOBS = [
    resnetd.Job(
        id=job_id,
        name=name,
        network=name,
        state=resnetd.JobState.SUCCEEDED,
        spec={},
        created_at=START,
        parameters=658_586,
        result=resnetd.TrainingResult(train_error=0.5, test_error=2.5, training_seconds=20.0),
    )
    for job_id, name in zip(IDS, demo.NETWORKS, strict=True)
]


class _Service(nullcontext[None]):
    url = "http://127.0.0.1:8123"
    token = "secret"
    token_path = Path("/demo/token")

    def __init__(self, exited: str | None) -> None:
        super().__init__()
        self.exited = exited
        self.waits = 0

    def wait_for_exit(self) -> str:
        self.waits += 1
        if self.exited is None:
            raise KeyboardInterrupt
        return self.exited


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> _Service:
    """It runs until Ctrl-C, and its jobs have succeeded."""
    service = _Service(exited=None)
    jobs: Any = SimpleNamespace(download=lambda _, path: path)
    submitted = iter(JOBS)
    client = SimpleNamespace(jobs=jobs, submit=lambda **_: next(submitted))
    monkeypatch.setattr(demo, "BUILD_PATH", tmp_path / "demo")
    monkeypatch.setattr(demo, "LocalService", lambda *_, **__: service)
    monkeypatch.setattr(resnetd, "Client", lambda **_: nullcontext(client))
    monkeypatch.setattr(demo, "watch", lambda *_: JOBS)
    return service


def test_the_demo_prints_where_its_curves_are_and_stops(
    service: _Service, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main([]) == 0
    printed = capsys.readouterr().out
    assert f"http://127.0.0.1:8123/compare?job={IDS[0]}&job={IDS[1]}\n" in printed
    assert "/demo/token\n" in printed
    assert service.waits == 0


def test_an_open_demo_runs_until_it_is_interrupted(
    service: _Service, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main(["--open"]) == 0
    assert service.waits == 1
    # Again below the table, where the reader is by then.
    assert capsys.readouterr().out.count("/compare?") == 2


def test_an_open_demo_fails_when_a_process_exits(
    service: _Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.exited = "dispatcher"
    assert demo.main(["--open"]) == 1
    assert "dispatcher exited unexpectedly" in capsys.readouterr().out


@pytest.mark.parametrize(("variables", "is_open"), [([], False), (["OPEN=1"], True)])
def test_make_passes_open(variables: list[str], is_open: bool) -> None:
    command = ["make", "--dry-run", "demo", *variables]
    printed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    (line,) = (line for line in printed.stdout.splitlines() if "deploy.demo" in line)
    assert line.endswith("--open") is is_open
