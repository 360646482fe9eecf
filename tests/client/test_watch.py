"""Watching jobs until they end: over connections that break, with the client and the command."""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from rich.console import Console

import resnetd
from resnetd.cli import watch as watch_module
from resnetd.cli.watch import LineScreen, LiveScreen, watch
from service.states import Reason
from service.storage import schema
from service.storage.database import Database
from tests.client import faults
from tests.client.conftest import QUICK, Command
from tests.client.service import SPEC, Service
from tests.support.api import TOKEN, serving
from tests.support.core import Clock, Core, job_id_of


def _numbers(events: Iterator[resnetd.Event]) -> list[int | None]:
    return [event.number for event in events if event.number is not None]


def test_a_watch_has_each_event_and_ends_with_the_final_one(
    service: Service, client: resnetd.Client
) -> None:
    job_id = service.end(Reason.COMPLETED)
    events = list(client.jobs.watch(job_id))
    assert _numbers(iter(events)) == list(range(1, len(events) + 1))
    assert events[-1].is_final


def test_a_watch_behind_the_final_event_ends_with_one_request(
    service: Service, client: resnetd.Client
) -> None:
    job_id = service.end(Reason.COMPLETED)
    last = max(event.number or 0 for event in client.jobs.events(job_id))
    service.transport.requests.clear()
    assert list(client.jobs.watch(job_id, after=last)) == []
    assert len(service.transport.requests) == 1


def test_events_arrive_while_the_job_runs(service: Service, client: resnetd.Client) -> None:
    training = service.run()
    events = client.jobs.watch(training.job_id)
    assert next(events).kind == resnetd.EventKind.SUBMITTED
    training.progress(12, train_loss=0.5)
    progress = next(event for event in events if event.kind == "progress")
    assert progress.number is None
    assert progress.progress is not None
    assert progress.progress.iteration == 12
    training.finish()
    assert [event.data["to"] for event in events if event.is_final] == ["succeeded"]


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_stream_that_breaks_within_an_event_loses_and_repeats_none(
    service: Service, client: resnetd.Client, after: int
) -> None:
    job_id = service.end(Reason.COMPLETED)
    expected = _numbers(client.jobs.events(job_id))
    service.inject(faults.break_stream(after))
    assert _numbers(client.jobs.watch(job_id)) == expected


def test_a_watch_waits_for_an_unavailable_service_longer_than_a_request(
    service: Service, client: resnetd.Client
) -> None:
    training = service.run()
    service.inject(faults.break_stream(1))
    service.transport.faults += [faults.unavailable()] * (10 * QUICK.attempts)
    events = client.jobs.watch(training.job_id, poll_seconds=0.001)
    assert next(events).number == 1
    training.finish()
    assert list(events)[-1].is_final
    assert service.transport.faults == []


def test_events_that_are_repeated_are_dropped(service: Service, client: resnetd.Client) -> None:
    job_id = service.end(Reason.COMPLETED)
    expected = _numbers(client.jobs.events(job_id, after=2))
    service.inject(faults.set_headers(Last_Event_ID="0"))
    assert _numbers(client.jobs.watch(job_id, after=2)) == expected


def test_a_watch_gives_up_without_a_response_for_its_patience(service: Service) -> None:
    job_id = service.submit()
    impatient = resnetd.Retry(patience_seconds=0.0)
    with resnetd.Client(service.url, TOKEN, retry=impatient, transport=service.transport) as client:
        service.inject(faults.break_stream(1))
        events = client.jobs.watch(job_id)
        assert next(events).number == 1
        service.transport.lasting_fault = faults.refuse_connection
        service.core.cancel(job_id)
        with pytest.raises(resnetd.CannotConnect, match=service.url):
            next(events)


def test_events_are_polled_behind_a_proxy_that_blocks_streams(
    service: Service, client: resnetd.Client
) -> None:
    service.transport.lasting_fault = faults.set_headers(Accept="application/json")
    job_id = service.submit()
    events = client.jobs.watch(job_id, poll_seconds=0.001)
    assert next(events).number == 1
    service.core.cancel(job_id)
    assert _numbers(events) == [2]


def test_a_final_state_of_a_newer_service_ends_the_watch(
    service: Service, client: resnetd.Client
) -> None:
    job_id = service.end(Reason.COMPLETED)
    archive = faults.change_json(lambda job: job.update(state="archived"))
    expected = _numbers(client.jobs.events(job_id))
    service.transport.faults = [faults.unavailable(), archive]  # of the stream and of the job
    assert _numbers(client.jobs.watch(job_id)) == expected


def test_watching_an_unknown_job_is_refused(client: resnetd.Client) -> None:
    with pytest.raises(resnetd.NotFound):
        next(client.jobs.watch("0f3k000000000009"))


def test_followed_logs_end_with_the_job_and_have_its_last_line(
    service: Service, client: resnetd.Client
) -> None:
    training = service.run()
    training.log("first")
    lines = client.jobs.logs(training.job_id, follow=True, poll_seconds=0.001)
    assert next(lines).message == "first"
    service.inject(*[faults.lose_response] * 7)
    training.log("second", "last")
    training.finish()
    assert [line.message for line in lines] == ["second", "last"]


def test_several_threads_watch_over_one_client(service: Service, client: resnetd.Client) -> None:
    ids = [service.submit() for _ in range(4)]
    seen: dict[str, list[int | None]] = {}

    def follow(job_id: str) -> None:
        seen[job_id] = _numbers(client.jobs.watch(job_id))

    threads = [threading.Thread(target=follow, args=(job_id,)) for job_id in ids]
    for thread in threads:
        thread.start()
    for job_id in ids:
        service.core.cancel(job_id)
    for thread in threads:
        thread.join()
    assert seen == {job_id: [1, 2] for job_id in ids}


def test_a_watch_that_is_dropped_closes_its_connection(
    service: Service, client: resnetd.Client
) -> None:
    job_id = service.submit()
    events = client.jobs.watch(job_id)
    next(events)
    del events
    assert client.jobs.get(job_id).state == resnetd.JobState.QUEUED


def test_a_watch_survives_a_restart_of_the_service(service: Service, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'resnetd.db'}"
    database = Database(url)
    schema.upgrade(database)
    core = Core(database, Clock())
    with serving(core, url, tmp_path) as first:
        client = resnetd.Client(first.url, TOKEN, retry=QUICK, transport=service.transport)
        training = Service(first).run()
        events = client.jobs.watch(training.job_id)
        assert next(events).number == 1
    with serving(core, url, tmp_path) as second, client:
        service.transport.port = httpx.URL(second.url).port
        training.api = second
        training.finish()
        numbers = _numbers(events)
    assert numbers == [event.number for event in core.events(training.job_id)][1:]
    database.close()


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Reason.COMPLETED, 0),
        (Reason.DIVERGED, 100),
        (Reason.CANCELLED, 103),
        (Reason.TIME_LIMIT, 104),
    ],
)
def test_the_exit_code_is_the_outcome(
    service: Service, command: Command, reason: Reason, code: int
) -> None:
    training = service.run()
    with _after_a_stream_was_opened(service, lambda: training.finish(reason)):
        assert command("watch", training.job_id) == code
    assert command.out.splitlines()[-1].startswith(training.job_id)


def test_a_change_during_the_start_of_a_watch_is_not_printed_twice(
    service: Service, client: resnetd.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = service.submit()
    read, changes = client.jobs.get, iter([service.core.start_next])

    def start_then_read(wanted: str) -> resnetd.Job:
        for change in changes:
            service.core.record_cluster(cpus=64)
            change()
        return read(wanted)

    monkeypatch.setattr(client.jobs, "get", start_then_read)
    job, last = watch_module._read(client.jobs, job_id)
    assert job.state == resnetd.JobState.STARTING
    assert list(client.jobs.events(job_id, after=last)) == []


def test_the_worst_of_several_outcomes_counts(service: Service, command: Command) -> None:
    ids = [service.end(reason) for reason in (Reason.COMPLETED, Reason.DIVERGED, Reason.CANCELLED)]
    assert command("watch", *ids) == 100
    assert command("watch", ids[0], ids[2]) == 103
    assert command("watch", ids[0], ids[0]) == 0


def test_submit_can_wait_until_the_end(service: Service, command: Command) -> None:
    settings = [f"--set={field}={value}" for field, value in SPEC.items()]
    with _after_a_stream_was_opened(service, lambda: service.run_next().finish(Reason.DIVERGED)):
        assert command("submit", *settings, "--watch") == 100
    assert command.out.splitlines()[-1].endswith(" failed: diverged")


def test_lines_have_progress_at_a_limited_rate(service: Service, client: resnetd.Client) -> None:
    service.submit()
    (job,) = client.jobs.list()

    def train() -> None:
        training = service.run_next()
        for iteration in range(1, 20):
            training.progress(iteration, train_loss=0.5, train_error=14.0, test_error=12.0)
        training.finish()

    console = Console(file=io.StringIO(), width=200)
    with _after_a_stream_was_opened(service, train):
        watch(client.jobs, [job], LineScreen(console, line_seconds=60))
    lines = [line.removeprefix(f"{job.id} ") for line in _text(console).splitlines()]
    assert lines[0] == "resnet-8-A on digits, queued"
    assert lines[-1] == ("succeeded: test error 2.50 %, train error 0.50 %, training time 40 s")
    assert lines[-2] == "running -> succeeded"
    (progress,) = [line for line in lines if "loss" in line]
    assert re.fullmatch(
        r"\d+/20, \d+ s left, loss 0\.500, test 12\.00 %, train 14\.00 %, 1,890 images/s", progress
    )


def test_a_line_of_progress_without_values_is_the_iteration(
    service: Service, client: resnetd.Client
) -> None:
    job = client.jobs.get(service.submit())
    console = Console(file=io.StringIO(), width=200)
    data = {"iteration": 4, "iterations": 60, "percent": 6.7}
    progress = resnetd.Event(kind=resnetd.EventKind.PROGRESS, data=data)
    LineScreen(console, line_seconds=60).update(job, progress)
    assert _text(console) == f"{job.id} 4/60\n"


def test_a_terminal_has_a_bar_for_each_job(service: Service, client: resnetd.Client) -> None:
    first = service.run()

    def train() -> None:
        first.finish(Reason.WORKER_DIED)
        service.core.clock.advance(60.0)
        training = service.run_next()
        training.progress(10, test_error=2.5)
        training.finish()

    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    with _after_a_stream_was_opened(service, train):
        watch(client.jobs, [client.jobs.get(first.job_id)], LiveScreen(console))
    shown = _text(console)
    assert "resnet-8-A on digits: running -> queued (worker-died)" in shown
    assert "10/20" in shown
    assert "succeeded: test error 2.50 %" in shown


def test_json_has_a_line_for_each_event_with_its_job(service: Service, command: Command) -> None:
    training = service.run()

    def train() -> None:
        training.progress(12)
        training.finish()

    with _after_a_stream_was_opened(service, train):
        assert command("watch", training.job_id, "-o", "json") == 0
    lines = [json.loads(line) for line in command.out.splitlines()]
    assert {line["job_id"] for line in lines} == {training.job_id}
    kinds = [line["kind"] for line in lines]
    assert kinds[-2:] == ["state", "end"]
    assert "progress" in kinds
    assert lines[-1]["data"]["state"] == "succeeded"


def test_a_watch_ends_at_its_timeout(service: Service, command: Command) -> None:
    job_id = service.submit()
    assert command("watch", job_id, "--timeout", "0.05") == 101
    assert "still queued after 0.05 s" in command.err
    assert f"resnetd watch {job_id}" in command.err
    assert command("watch", job_id, "--timeout", "0") == 101
    assert service.core.job(job_id).state == "queued"


def test_a_watch_ends_when_the_service_holds_the_job(
    service: Service, client: resnetd.Client, command: Command
) -> None:
    core = service.core
    running = core.run()
    job_id = job_id_of(running)
    for _ in range(2):
        core.finish(running.attempt_id, Reason.WORKER_DIED)
        core.release(running)
        running = core.retry()

    def fail() -> None:
        core.finish(running.attempt_id, Reason.WORKER_DIED)

    with _after_a_stream_was_opened(service, fail):
        assert command("watch", job_id) == 101
    assert "held: worker-died: 3 attempts in a row failed" in command.out
    assert client.jobs.get(job_id).is_held_by_service
    assert command("watch", job_id) == 101, "it is held already"


def test_events_and_logs_end_when_the_service_holds_the_job(
    service: Service, client: resnetd.Client
) -> None:
    training = service.run()
    training.log("a line")
    job_id = service.fail_repeatedly(training)
    events = list(client.jobs.watch(job_id, poll_seconds=0.001))
    assert (events[-1].is_held_by_service, events[-1].number) == (True, len(events))
    (line,) = client.jobs.logs(job_id, follow=True, poll_seconds=0.001)
    assert line.message == "a line"


def test_a_watch_continues_after_a_hold_that_was_released(
    service: Service, client: resnetd.Client
) -> None:
    job_id = service.hold()
    service.core.command("release", job_id)
    service.run_next().finish()
    events = list(client.jobs.watch(job_id, poll_seconds=0.001))
    assert [event.data["to"] for event in events if event.is_final] == ["succeeded"]
    assert _numbers(iter(events)) == list(range(1, len(events) + 1))


def test_a_job_that_is_deleted_ends_its_watch(service: Service, command: Command) -> None:
    job_id = service.submit()

    def delete(request: httpx.Request, send: faults.Send) -> httpx.Response:
        if "event-stream" in request.headers["Accept"]:
            service.transport.lasting_fault = None
            service.core.cancel(job_id)
            service.api.call("DELETE", f"/v1/jobs/{job_id}")
        return send(request)

    service.transport.lasting_fault = delete
    assert command("watch", job_id) == 102


@pytest.mark.parametrize("arguments", [("watch",), ("logs", "-f")])
def test_ctrl_c_detaches_and_never_cancels(service: Service, arguments: tuple[str, ...]) -> None:
    training = service.run()
    training.log("a line")
    with _started(service, *arguments, training.job_id) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    again = f"resnetd {' '.join(arguments)} {training.job_id}"
    assert f"The job continues; watch again with: {again}" in err
    assert "Traceback" not in err
    job = service.core.job(training.job_id)
    assert (job.state, job.stop_requested) == ("running", None)


def test_ctrl_c_leaves_a_terminal_usable(service: Service) -> None:
    job_id = service.submit()
    ours, theirs = pty.openpty()
    try:
        with _started(service, "watch", job_id, stdout=theirs) as process:
            shown = b""
            while b"queued" not in shown:
                shown += os.read(ours, 4096)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=20)
            while b"\x1b[?25h" not in shown:  # the cursor is visible again
                shown += os.read(ours, 4096)
        assert process.returncode == 130
    finally:
        os.close(ours)
        os.close(theirs)


@contextmanager
def _after_a_stream_was_opened(service: Service, act: Callable[[], None]) -> Iterator[None]:
    def wait_and_act() -> None:
        service.transport.wait_for_stream()
        act()

    actor = threading.Thread(target=wait_and_act)
    actor.start()
    try:
        yield
    finally:
        actor.join()


@contextmanager
def _started(
    service: Service, *arguments: str, stdout: int = subprocess.PIPE
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
