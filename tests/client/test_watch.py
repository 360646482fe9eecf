"""Watching jobs to their end, or leaving them."""

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console

import resnetd
from resnetd.watch import LineScreen, LiveScreen, watch
from tests.client.conftest import Command
from tests.client.fake_service import TOKEN, FakeService


@pytest.mark.parametrize(
    ("state", "reason", "code"),
    [
        ("succeeded", "completed", 0),
        ("failed", "diverged", 100),
        ("cancelled", "cancelled", 103),
        ("failed", "time-limit", 104),
    ],
)
def test_the_exit_code_tells_how_the_job_ended(
    service: FakeService, command: Command, state: str, reason: str, code: int
) -> None:
    job_id = service.add_job()
    with _when_followed(service, job_id, lambda: service.move(job_id, state, reason)):
        assert command("watch", job_id) == code
    assert command.out.splitlines()[-1].startswith(f"{job_id} {state}")


def test_of_several_jobs_the_worst_end_counts(service: FakeService, command: Command) -> None:
    ends = [("succeeded", "completed"), ("failed", "diverged"), ("cancelled", "cancelled")]
    ids = [service.add_job(f"0f3k00000000000{number}") for number in range(3)]
    for job_id, (state, reason) in zip(ids, ends, strict=True):
        service.move(job_id, state, reason)
    assert command("watch", *ids) == 100
    assert command("watch", ids[0], ids[2]) == 103
    assert command("watch", ids[0], ids[0]) == 0


def test_submit_can_stay_until_the_end(service: FakeService, command: Command) -> None:
    job_id = "0f3k000000000001"
    with _when_followed(service, job_id, lambda: service.move(job_id, "failed", "diverged")):
        assert (
            command("submit", "--depth", "20", "--shortcut", "A", "--dataset", "digits", "--watch")
            == 100
        )
    assert command.out.splitlines()[-1] == f"{job_id} failed: diverged"


def test_without_a_terminal_progress_comes_at_a_sane_rate(
    service: FakeService, client: resnetd.Client
) -> None:
    job_id = service.add_job()

    def train() -> None:
        service.move(job_id, "running")
        for iteration in range(50):
            service.progress(job_id, iteration)
        service.move(job_id, "succeeded", "completed")

    console = Console(file=io.StringIO(), width=200)
    with _when_followed(service, job_id, train):
        watch(client, [client.job(job_id)], LineScreen(console, line_seconds=60))
    beside = "32 s left, loss 0.500, test 12.00 %, train 14.00 %, 1890 images/s"
    assert _text(console).splitlines() == [
        f"{job_id} resnet-20-A on digits, queued",
        f"{job_id} queued -> running",
        f"{job_id} 0/600, {beside}",
        f"{job_id} running -> succeeded",
        f"{job_id} succeeded",
    ]


def test_on_a_terminal_each_job_has_a_bar(service: FakeService, client: resnetd.Client) -> None:
    job_id = service.add_job()

    def train() -> None:
        service.move(job_id, "starting")
        service.move(job_id, "queued", "worker-died")
        service.move(job_id, "running")
        service.progress(job_id, 300)
        service.move(job_id, "succeeded", "completed", result={"test_error": 2.2})

    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    with _when_followed(service, job_id, train):
        watch(client, [client.job(job_id)], LiveScreen(console))
    shown = _text(console)
    assert "resnet-20-A on digits: starting -> queued (worker-died)" in shown
    assert "300/600" in shown
    assert "succeeded: test error 2.20 %" in shown


def test_as_json_each_event_is_a_line_with_its_job(service: FakeService, command: Command) -> None:
    job_id = service.add_job()

    def train() -> None:
        service.progress(job_id, 120)
        service.move(job_id, "succeeded", "completed")

    with _when_followed(service, job_id, train):
        assert command("watch", job_id, "-o", "json") == 0
    told = [json.loads(line) for line in command.out.splitlines()]
    assert [event["kind"] for event in told] == ["progress", "state", "end"]
    assert {event["job_id"] for event in told} == {job_id}
    assert told[-1]["data"]["state"] == "succeeded"


def test_a_watch_survives_a_restart_of_the_service(service: FakeService, command: Command) -> None:
    job_id = service.add_job()

    def restart() -> None:
        service.stop()
        service.move(job_id, "succeeded", "completed")
        service.start()

    with _when_followed(service, job_id, restart):
        assert command("watch", job_id) == 0


def test_a_watch_ends_at_its_timeout(service: FakeService, command: Command) -> None:
    job_id = service.add_job()
    assert command("watch", job_id, "--timeout", "0.05") == 101
    assert "still queued after 0.05 s" in command.err
    assert f"resnetd watch {job_id}" in command.err
    assert service.jobs[job_id]["state"] == "queued"


def test_a_watch_without_time_looks_once(service: FakeService, command: Command) -> None:
    assert command("watch", service.add_job(), "--timeout", "0") == 101


def test_a_watched_job_that_disappears_ends_the_watch(
    service: FakeService, command: Command
) -> None:
    job_id = service.add_job()

    def disappear() -> None:
        del service.jobs[job_id]
        service.stop()
        service.start()

    with _when_followed(service, job_id, disappear):
        assert command("watch", job_id) == 102


@pytest.mark.parametrize("arguments", [("watch",), ("logs", "-f")])
def test_ctrl_c_detaches_and_never_cancels(
    service: FakeService, arguments: tuple[str, ...]
) -> None:
    job_id = service.add_job()
    service.log(job_id, "a line")
    with _started(service, *arguments, job_id) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert f"The job goes on; come back with: resnetd {' '.join(arguments)} {job_id}" in err
    assert "Traceback" not in err
    assert service.jobs[job_id]["state"] == "queued"
    assert not service.asked("POST", f"/v1/jobs/{job_id}/cancel")


def test_on_a_real_terminal_ctrl_c_leaves_it_usable(service: FakeService) -> None:
    job_id = service.add_job()
    ours, theirs = pty.openpty()
    try:
        with _started(service, "watch", job_id, stdout=theirs) as process:
            shown = b""
            while b"queued" not in shown:
                shown += os.read(ours, 4096)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=10)
            while b"\x1b[?25h" not in shown:  # the cursor is back
                shown += os.read(ours, 4096)
        assert process.returncode == 130
    finally:
        os.close(ours)
        os.close(theirs)


@contextmanager
def _when_followed(service: FakeService, job_id: str, act: Callable[[], None]) -> Iterator[None]:
    """`act` happens once somebody has opened the job's stream."""

    def is_followed() -> bool:
        return any(
            "event-stream" in one.headers["accept"]
            for one in service.asked("GET", f"/v1/jobs/{job_id}/events")
        )

    def wait_and_act() -> None:
        service.wait_until(is_followed)
        act()

    actor = threading.Thread(target=wait_and_act)
    actor.start()
    try:
        yield
    finally:
        actor.join()


@contextmanager
def _started(
    service: FakeService, *arguments: str, stdout: int = subprocess.PIPE
) -> "Iterator[subprocess.Popen[str]]":
    environment = os.environ | {
        "RESNETD_URL": service.url,
        "RESNETD_TOKEN": TOKEN,
        "TERM": "xterm",
        "PYTHONUNBUFFERED": "1",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "resnetd", *arguments],
        env=environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()
