"""What dead processes left is delivered."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fake_api import FakeApi, Fault, eventually
from tests.workers.reporting.support import (
    client_of,
    files_below,
    iterations,
    report_loss,
    save,
    started,
)
from workers.reporting.reporter import drain

_TRAINING = """
import sys
from pathlib import Path
from tests.support.fake_api import TOKEN
from tests.workers.reporting.support import report_loss, save
from service.states import LogLevel
from workers.reporting.api_client import AttemptClient
from workers.reporting.reporter import Reporter

url, work_dir = sys.argv[1], Path(sys.argv[2])
client = AttemptClient(api_url=url, attempt_id="job1-a1", token=TOKEN)
reporter = Reporter(client, work_dir=work_dir, last_sequence=0, flush_seconds=0.02)
reporter.start()
for iteration in range(100):
    report_loss(reporter, iteration)
reporter.on_log(LogLevel.ERROR, "last line")
reporter.on_checkpoint(save(work_dir, 99))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.LOSING_RESPONSES])
def test_drain_delivers_what_a_killed_process_left(
    fault: Fault, api: FakeApi, tmp_path: Path
) -> None:
    api.inject_fault(fault)
    with subprocess.Popen(
        [sys.executable, "-c", _TRAINING, api.url, tmp_path],
        cwd=Path(__file__).parents[3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as training:
        assert training.stdout is not None
        assert training.stdout.readline() == b"ready\n"
        eventually(lambda: _spooled_lines(tmp_path) and files_below(tmp_path / "outbox"))
        os.kill(training.pid, signal.SIGKILL)
    api.recover()

    with client_of(api) as client:
        assert drain(client, work_dir=tmp_path, deadline_seconds=20.0)

    assert iterations(api) == list(range(100))
    assert [line.message for line in api.lines] == ["last line"]
    assert [manifest.iteration for manifest in api.checkpoints] == [99]
    assert api.violations == []
    assert files_below(tmp_path) == []


def _spooled_lines(work_dir: Path) -> bool:
    return any("last line" in file.read_text() for file in (work_dir / "spool").glob("*.json"))


def test_drain_continues_after_the_last_stored_report(api: FakeApi, tmp_path: Path) -> None:
    with started(api, tmp_path) as reporter:
        report_loss(reporter, 1)
        assert reporter.close(deadline_seconds=20.0)

    api.inject_fault(Fault.UNAVAILABLE)
    with started(api, tmp_path) as dying:
        dying.on_checkpoint(save(tmp_path, 1))
        eventually(lambda: files_below(tmp_path / "outbox"))
    api.recover()

    with client_of(api) as client:
        assert drain(client, work_dir=tmp_path, deadline_seconds=20.0)

    assert [report.sequence for report in api.reports] == [1, 2]
    assert [manifest.iteration for manifest in api.checkpoints] == [1]


def test_drain_delivers_nothing_of_an_attempt_that_is_over(api: FakeApi, tmp_path: Path) -> None:
    api.inject_fault(Fault.STALE)
    with client_of(api) as client:
        assert not drain(client, work_dir=tmp_path, deadline_seconds=20.0)
