import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.reports import (
    MAX_LINE_LENGTH,
    MAX_POINTS,
    CheckpointNote,
    Facts,
    LogLevel,
    MetricPoint,
    Part,
    PartDigest,
    Progress,
)
from service.states import StopReason
from tests.support.fake_api import TOKEN, FakeApi, Fault, digits_brief, eventually, fake_api
from workers.reporting.client import ApiClient
from workers.reporting.reporter import Reporter, drain

FACTS = Facts(
    parameters=1,
    classes=10,
    train_images=1,
    test_images=1,
    device="cpu",
    num_workers=1,
    host="here",
    pids=[1],
    versions={},
)


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with fake_api(digits_brief()) as running:
        yield running


def client_of(api: FakeApi) -> ApiClient:
    return ApiClient(
        api_url=api.url,
        attempt_id=api.attempt.attempt_id,
        token=TOKEN,
        report_seconds=0.5,
        part_seconds=0.5,
    )


@contextmanager
def started(
    api: FakeApi,
    work_path: Path,
    *,
    flush_seconds: float = 0.02,
    heartbeat_seconds: float = 60.0,
    limit_bytes: int = 1 << 30,
) -> Iterator[Reporter]:
    with client_of(api) as client:
        reporter = Reporter(
            client,
            work_path=work_path,
            last_sequence=api.last_sequence,
            flush_seconds=flush_seconds,
            heartbeat_seconds=heartbeat_seconds,
            limit_bytes=limit_bytes,
        )
        reporter.start()
        try:
            yield reporter
        finally:
            reporter.close(deadline_seconds=0.0)


def point(iteration: int) -> MetricPoint:
    return MetricPoint(series="train/loss", iteration=iteration, value=1 / (iteration + 1))


def iterations(api: FakeApi) -> list[int]:
    return [each.iteration for each in api.points]


def save(
    work_path: Path, iteration: int, *, test_error: float | None = 50.0
) -> tuple[CheckpointNote, dict[Part, Path]]:
    folder = work_path / f"checkpoint-{iteration}"
    folder.mkdir(parents=True)
    files = {part: folder / part for part in (Part.WEIGHTS, Part.STATE)}
    for part, path in files.items():
        path.write_bytes(f"{part} of {iteration}".encode() * 1000)
    digests = [
        PartDigest(
            part=part,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            size_bytes=path.stat().st_size,
        )
        for part, path in files.items()
    ]
    note = CheckpointNote(
        iteration=iteration, test_error=test_error, train_error=None, parts=digests
    )
    return note, files


def files_below(path: Path) -> list[Path]:
    return [entry for entry in path.rglob("*") if entry.is_file()]


def test_all_that_training_says_arrives_and_nothing_stays_on_disk(
    api: FakeApi, tmp_path: Path
) -> None:
    with started(api, tmp_path) as reporter:
        reporter.facts(FACTS)
        reporter.metrics([point(1), point(2)])
        reporter.log(LogLevel.WARNING, "look")
        reporter.progress(Progress(iteration=2, iterations=4, images_per_second=1.0))
        reporter.checkpoint(*save(tmp_path, 2))
        assert reporter.close(deadline_seconds=20.0)

    assert [report.sequence for report in api.reports] == list(range(1, len(api.reports) + 1))
    assert [report.facts for report in api.reports if report.facts] == [FACTS]
    assert iterations(api) == [1, 2]
    assert [line.message for line in api.lines] == ["look"]
    assert [report.progress.iteration for report in api.reports if report.progress] == [2]
    assert [note.iteration for note in api.checkpoints] == [2]
    assert api.parts[2, Part.STATE] == b"state of 2" * 1000
    assert api.complaints == []
    assert files_below(tmp_path) == []


def test_silence_is_broken_by_heartbeats(api: FakeApi, tmp_path: Path) -> None:
    with started(api, tmp_path, heartbeat_seconds=0.05):
        eventually(lambda: len(api.reports) >= 3)

    assert all(report.progress is None for report in api.reports)


def test_heartbeats_do_not_pile_up_while_the_api_is_away(api: FakeApi, tmp_path: Path) -> None:
    api.break_down(Fault.UNAVAILABLE)
    with started(api, tmp_path, heartbeat_seconds=0.01):
        eventually(lambda: api.requests >= 3)
        assert len(files_below(tmp_path / "spool")) <= 1


@pytest.mark.parametrize("fault", [None, Fault.UNAVAILABLE, Fault.HANGING, Fault.LOSING_ANSWERS])
def test_an_outage_loses_nothing_and_doubles_nothing(
    fault: Fault | None, api: FakeApi, tmp_path: Path
) -> None:
    """None: connections are refused."""
    with started(api, tmp_path) as reporter:
        reporter.metrics([point(1)])
        eventually(lambda: iterations(api) == [1])

        asked = api.requests
        if fault is None:
            api.go_away()
        else:
            api.break_down(fault)
        for iteration in range(2, 12):
            reporter.metrics([point(iteration)])
            eventually(lambda: not reporter._pending.metrics)
        reporter.checkpoint(*save(tmp_path, 11))
        if fault is None:
            eventually(lambda: reporter.last_error)
            api.open()
        else:
            eventually(lambda: api.requests >= asked + 3)
            api.recover()
        reporter.metrics([point(12)])
        assert reporter.close(deadline_seconds=30.0)

    assert iterations(api) == list(range(1, 13))
    assert [note.iteration for note in api.checkpoints] == [11]
    assert api.complaints == []


def test_training_is_never_held_up_by_an_api_that_hangs(api: FakeApi, tmp_path: Path) -> None:
    api.break_down(Fault.HANGING)
    with started(api, tmp_path) as reporter:
        reporter.facts(FACTS)
        eventually(lambda: api.requests >= 1)
        note, files = save(tmp_path, 1)
        before = time.monotonic()
        reporter.metrics([point(1)])
        reporter.log(LogLevel.INFO, "still here")
        reporter.progress(Progress(iteration=1, iterations=4, images_per_second=None))
        reporter.checkpoint(note, files)
        assert reporter.stop is None
        assert time.monotonic() - before < 0.2
        api.recover()


def test_a_checkpoint_counts_after_every_metric_that_was_told_before_it(
    api: FakeApi, tmp_path: Path
) -> None:
    with started(api, tmp_path) as reporter:
        for iteration in range(1, 30):
            reporter.metrics([point(iteration)])
            if iteration % 10 == 0:
                reporter.checkpoint(*save(tmp_path, iteration))
                eventually(lambda: len(api.checkpoints) == iteration // 10)  # noqa: B023
        assert reporter.close(deadline_seconds=20.0)

    seen: list[int] = []
    for report in api.reports:
        seen += [each.iteration for each in report.metrics]
        for note in report.checkpoints:
            assert seen[: note.iteration] == list(range(1, note.iteration + 1))


def test_of_waiting_checkpoints_only_the_newest_and_the_best_are_delivered(
    api: FakeApi, tmp_path: Path
) -> None:
    api.break_down(Fault.UNAVAILABLE)
    with started(api, tmp_path) as reporter:
        for iteration, test_error in [(10, 40.0), (20, 20.0), (30, 30.0), (40, None), (50, 25.0)]:
            reporter.checkpoint(*save(tmp_path, iteration, test_error=test_error))
        eventually(lambda: len(files_below(tmp_path / "outbox")) == 2)
        eventually(lambda: len(list(tmp_path.glob("checkpoint-*"))) == 2)
        api.recover()
        assert reporter.close(deadline_seconds=20.0)

    assert [note.iteration for note in api.checkpoints] == [20, 50]
    assert files_below(tmp_path) == []


def test_a_best_checkpoint_that_waits_is_dropped_where_a_better_one_was_delivered(
    api: FakeApi, tmp_path: Path
) -> None:
    with started(api, tmp_path) as reporter:
        reporter.checkpoint(*save(tmp_path, 10, test_error=5.0))
        eventually(lambda: api.checkpoints)
        api.break_down(Fault.UNAVAILABLE)
        for iteration, test_error in [(20, 20.0), (30, 30.0)]:
            reporter.checkpoint(*save(tmp_path, iteration, test_error=test_error))
        eventually(lambda: len(list(tmp_path.glob("checkpoint-*"))) == 1)
        api.recover()
        assert reporter.close(deadline_seconds=20.0)

    assert [note.iteration for note in api.checkpoints] == [10, 30]


def test_a_refused_last_checkpoint_is_told_and_means_undelivered(
    api: FakeApi, tmp_path: Path
) -> None:
    api.break_down(Fault.CORRUPTING)
    with started(api, tmp_path) as reporter:
        reporter.checkpoint(*save(tmp_path, 10))
        assert not reporter.close(deadline_seconds=20.0)
        assert "corrupt" in str(reporter.last_error)

    assert api.checkpoints == []
    assert "iteration 10 is lost" in api.lines[0].message


def test_a_stop_request_reaches_training(api: FakeApi, tmp_path: Path) -> None:
    with started(api, tmp_path) as reporter:
        assert reporter.stop is None
        api.stop = StopReason.TIME_LIMIT
        reporter.metrics([point(1)])
        eventually(lambda: reporter.stop is StopReason.TIME_LIMIT)


def test_a_stale_attempt_stops_training_and_falls_silent(api: FakeApi, tmp_path: Path) -> None:
    api.break_down(Fault.STALE)
    with started(api, tmp_path) as reporter:
        reporter.metrics([point(1)])
        eventually(lambda: reporter.is_fenced)
        assert reporter.stop is StopReason.CANCEL
        asked = api.requests
        reporter.metrics([point(2)])
        reporter.checkpoint(*save(tmp_path, 2))
        assert not reporter.close(deadline_seconds=20.0)
        assert api.requests == asked

    assert api.reports == []


def test_a_token_that_is_not_good_any_more_fences_the_attempt(api: FakeApi, tmp_path: Path) -> None:
    with ApiClient(api_url=api.url, attempt_id="job1-a1", token="another") as client:
        reporter = Reporter(client, work_path=tmp_path, last_sequence=0)
        reporter.start()
        reporter.facts(FACTS)
        eventually(lambda: reporter.is_fenced)
        assert not reporter.close(deadline_seconds=20.0)


def test_more_than_a_report_may_hold_is_told_in_several(api: FakeApi, tmp_path: Path) -> None:
    with started(api, tmp_path) as reporter:
        reporter.metrics([point(iteration) for iteration in range(2 * MAX_POINTS + 1)])
        reporter.log(LogLevel.ERROR, "x" * (MAX_LINE_LENGTH + 1))
        assert reporter.close(deadline_seconds=20.0)

    assert iterations(api) == list(range(2 * MAX_POINTS + 1))
    assert max(len(report.metrics) for report in api.reports) == MAX_POINTS
    assert api.lines[0].message == "x" * MAX_LINE_LENGTH


def test_a_report_that_is_refused_does_not_hold_up_the_next(api: FakeApi, tmp_path: Path) -> None:
    api.break_down(Fault.REFUSING_REPORTS)
    with started(api, tmp_path) as reporter:
        reporter.metrics([point(1)])
        eventually(lambda: api.lines)
        api.recover()
        reporter.metrics([point(2)])
        assert reporter.close(deadline_seconds=20.0)

    assert "was refused" in api.lines[0].message
    assert iterations(api) == [2]


def test_reports_go_on_where_a_restored_api_has_lost_some(api: FakeApi, tmp_path: Path) -> None:
    with started(api, tmp_path) as reporter:
        for iteration in (1, 2, 3):
            reporter.metrics([point(iteration)])
            eventually(lambda: iteration in iterations(api))  # noqa: B023
        del api.reports[1:]
        reporter.metrics([point(4)])
        assert reporter.close(deadline_seconds=20.0)

    assert iterations(api) == [1, 4]
    assert [report.sequence for report in api.reports] == [1, 2]


_TRAINING = """
import sys
from pathlib import Path
from tests.support.fake_api import TOKEN
from tests.workers.reporting.test_reporter import point, save
from service.reports import LogLevel
from workers.reporting.client import ApiClient
from workers.reporting.reporter import Reporter

url, work_path = sys.argv[1], Path(sys.argv[2])
client = ApiClient(api_url=url, attempt_id="job1-a1", token=TOKEN)
reporter = Reporter(client, work_path=work_path, last_sequence=0, flush_seconds=0.02)
reporter.start()
for iteration in range(100):
    reporter.metrics([point(iteration)])
reporter.log(LogLevel.ERROR, "last words")
reporter.checkpoint(*save(work_path, 99))
print("said", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.LOSING_ANSWERS])
def test_what_a_killed_process_left_is_delivered_by_a_drain(
    fault: Fault, api: FakeApi, tmp_path: Path
) -> None:
    api.break_down(fault)
    with subprocess.Popen(
        [sys.executable, "-c", _TRAINING, api.url, tmp_path],
        cwd=Path(__file__).parents[3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as training:
        assert training.stdout is not None
        assert training.stdout.readline() == b"said\n"
        eventually(lambda: _spooled_lines(tmp_path) and files_below(tmp_path / "outbox"))
        os.kill(training.pid, signal.SIGKILL)
    api.recover()

    with client_of(api) as client:
        assert drain(client, work_path=tmp_path, deadline_seconds=20.0)

    assert iterations(api) == list(range(100))
    assert [line.message for line in api.lines] == ["last words"]
    assert [note.iteration for note in api.checkpoints] == [99]
    assert api.complaints == []
    assert files_below(tmp_path) == []


def _spooled_lines(work_path: Path) -> bool:
    return any("last words" in file.read_text() for file in (work_path / "spool").glob("*.json"))


def test_a_drain_goes_on_after_the_last_stored_report(api: FakeApi, tmp_path: Path) -> None:
    with started(api, tmp_path) as reporter:
        reporter.metrics([point(1)])
        assert reporter.close(deadline_seconds=20.0)

    api.break_down(Fault.UNAVAILABLE)
    with started(api, tmp_path) as dying:
        dying.checkpoint(*save(tmp_path, 1))
        eventually(lambda: files_below(tmp_path / "outbox"))
    api.recover()

    with client_of(api) as client:
        assert drain(client, work_path=tmp_path, deadline_seconds=20.0)

    assert [report.sequence for report in api.reports] == [1, 2]
    assert [note.iteration for note in api.checkpoints] == [1]


def test_nothing_is_drained_from_an_attempt_that_is_over(api: FakeApi, tmp_path: Path) -> None:
    api.break_down(Fault.STALE)
    with client_of(api) as client:
        assert not drain(client, work_path=tmp_path, deadline_seconds=20.0)
