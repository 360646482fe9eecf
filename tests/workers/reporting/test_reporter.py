import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from service.specs.protocol import MAX_LINE_LENGTH, MAX_POINTS
from service.states import CheckpointPart, LogLevel, StopReason
from tests.support.fake_api import FakeApi, Fault, eventually
from tests.workers.reporting.support import (
    ENVIRONMENT,
    files_below,
    iterations,
    report_loss,
    save,
    started,
)
from workers.reporting import reports
from workers.reporting.api_client import ApiClient
from workers.reporting.reporter import Reporter
from workers.training.observers import Progress


def test_all_that_training_says_arrives_and_nothing_stays_on_disk(
    api: FakeApi, tmp_path: Path
) -> None:
    with started(api, tmp_path) as reporter:
        reporter.on_start(ENVIRONMENT)
        report_loss(reporter, 1, 2)
        reporter.on_log(LogLevel.WARNING, "look")
        reporter.on_progress(Progress(iteration=2, iterations=4, images_per_second=1.0))
        reporter.on_checkpoint(save(tmp_path, 2))
        assert reporter.close(deadline_seconds=20.0)

    assert [report.sequence for report in api.reports] == list(range(1, len(api.reports) + 1))
    assert [report.environment for report in api.reports if report.environment] == [
        reports.make_environment(ENVIRONMENT)
    ]
    assert iterations(api) == [1, 2]
    assert [line.message for line in api.lines] == ["look"]
    assert [report.progress.iteration for report in api.reports if report.progress] == [2]
    assert [note.iteration for note in api.checkpoints] == [2]
    assert api.parts[2, CheckpointPart.STATE] == b"state of 2" * 1000
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
        report_loss(reporter, 1)
        eventually(lambda: iterations(api) == [1])

        asked = api.requests
        if fault is None:
            api.go_away()
        else:
            api.break_down(fault)
        for iteration in range(2, 12):
            report_loss(reporter, iteration)
            eventually(lambda: not reporter._pending.metrics)
        reporter.on_checkpoint(save(tmp_path, 11))
        if fault is None:
            eventually(lambda: reporter.last_error)
            api.open()
        else:
            eventually(lambda: api.requests >= asked + 3)
            api.recover()
        report_loss(reporter, 12)
        assert reporter.close(deadline_seconds=30.0)

    assert iterations(api) == list(range(1, 13))
    assert [note.iteration for note in api.checkpoints] == [11]
    assert api.complaints == []


def test_training_is_never_held_up_by_an_api_that_hangs(api: FakeApi, tmp_path: Path) -> None:
    api.break_down(Fault.HANGING)
    with started(api, tmp_path) as reporter:
        reporter.on_start(ENVIRONMENT)
        eventually(lambda: api.requests >= 1)
        saved = save(tmp_path, 1)
        before = time.monotonic()
        report_loss(reporter, 1)
        reporter.on_log(LogLevel.INFO, "still here")
        reporter.on_progress(Progress(iteration=1, iterations=4, images_per_second=None))
        reporter.on_checkpoint(saved)
        assert reporter.stop_requested is None
        assert time.monotonic() - before < 0.2
        api.recover()


def test_a_checkpoint_counts_after_every_metric_that_was_told_before_it(
    api: FakeApi, tmp_path: Path
) -> None:
    with started(api, tmp_path) as reporter:
        for iteration in range(1, 30):
            report_loss(reporter, iteration)
            if iteration % 10 == 0:
                reporter.on_checkpoint(save(tmp_path, iteration))
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
            reporter.on_checkpoint(save(tmp_path, iteration, test_error=test_error))
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
        reporter.on_checkpoint(save(tmp_path, 10, test_error=5.0))
        eventually(lambda: api.checkpoints)
        api.break_down(Fault.UNAVAILABLE)
        for iteration, test_error in [(20, 20.0), (30, 30.0)]:
            reporter.on_checkpoint(save(tmp_path, iteration, test_error=test_error))
        eventually(lambda: len(list(tmp_path.glob("checkpoint-*"))) == 1)
        api.recover()
        assert reporter.close(deadline_seconds=20.0)

    assert [note.iteration for note in api.checkpoints] == [10, 30]


def test_a_refused_last_checkpoint_is_told_and_means_undelivered(
    api: FakeApi, tmp_path: Path
) -> None:
    api.break_down(Fault.CORRUPTING)
    with started(api, tmp_path) as reporter:
        reporter.on_checkpoint(save(tmp_path, 10))
        assert not reporter.close(deadline_seconds=20.0)
        assert "corrupt" in str(reporter.last_error)

    assert api.checkpoints == []
    assert "iteration 10 is lost" in api.lines[0].message


class Promise(Future[None]):
    """Knows that somebody has asked whether it is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.was_asked = threading.Event()

    def done(self) -> bool:
        self.was_asked.set()
        return super().done()


def test_the_end_waits_until_the_last_checkpoint_is_written(api: FakeApi, tmp_path: Path) -> None:
    saved = Promise()
    with started(api, tmp_path) as reporter, ThreadPoolExecutor(1) as thread:
        reporter.on_checkpoint_pending(saved)
        is_delivered = thread.submit(reporter.close, deadline_seconds=20.0)
        assert saved.was_asked.wait(20.0)
        reporter.on_checkpoint(save(tmp_path, 10))
        saved.set_result(None)
        assert is_delivered.result()

    assert [note.iteration for note in api.checkpoints] == [10]


def test_a_last_checkpoint_that_cannot_be_written_means_undelivered(
    api: FakeApi, tmp_path: Path
) -> None:
    with started(api, tmp_path) as reporter:
        saved = Promise()
        saved.set_exception(OSError("No space left on device"))
        reporter.on_checkpoint_pending(saved)
        assert not reporter.close(deadline_seconds=20.0)
        assert "No space left" in str(reporter.last_error)


def test_a_stop_request_reaches_training(api: FakeApi, tmp_path: Path) -> None:
    with started(api, tmp_path) as reporter:
        assert reporter.stop_requested is None
        api.stop = StopReason.TIME_LIMIT
        report_loss(reporter, 1)
        eventually(lambda: reporter.stop_requested is StopReason.TIME_LIMIT)


def test_a_stale_attempt_stops_training_and_falls_silent(api: FakeApi, tmp_path: Path) -> None:
    api.break_down(Fault.STALE)
    with started(api, tmp_path) as reporter:
        report_loss(reporter, 1)
        eventually(lambda: reporter.is_fenced)
        assert reporter.stop_requested is StopReason.CANCEL
        asked = api.requests
        report_loss(reporter, 2)
        reporter.on_checkpoint(save(tmp_path, 2))
        assert not reporter.close(deadline_seconds=20.0)
        assert api.requests == asked

    assert api.reports == []


def test_a_token_that_is_not_good_any_more_fences_the_attempt(api: FakeApi, tmp_path: Path) -> None:
    with ApiClient(api_url=api.url, attempt_id="job1-a1", token="another") as client:
        reporter = Reporter(client, work_path=tmp_path, last_sequence=0)
        reporter.start()
        reporter.on_start(ENVIRONMENT)
        eventually(lambda: reporter.is_fenced)
        assert not reporter.close(deadline_seconds=20.0)


def test_more_than_a_report_may_hold_is_told_in_several(api: FakeApi, tmp_path: Path) -> None:
    with started(api, tmp_path) as reporter:
        reporter.on_metrics(1, {f"series/{index}": 0.0 for index in range(2 * MAX_POINTS + 1)})
        reporter.on_log(LogLevel.ERROR, "x" * (MAX_LINE_LENGTH + 1))
        assert reporter.close(deadline_seconds=20.0)

    assert len({point.series for point in api.points}) == 2 * MAX_POINTS + 1
    assert max(len(report.metrics) for report in api.reports) == MAX_POINTS
    assert api.lines[0].message == "x" * MAX_LINE_LENGTH


def test_a_report_that_is_refused_does_not_hold_up_the_next(api: FakeApi, tmp_path: Path) -> None:
    api.break_down(Fault.REFUSING_REPORTS)
    with started(api, tmp_path) as reporter:
        report_loss(reporter, 1)
        eventually(lambda: api.lines)
        api.recover()
        report_loss(reporter, 2)
        assert reporter.close(deadline_seconds=20.0)

    assert "was refused" in api.lines[0].message
    assert iterations(api) == [2]


def test_reports_go_on_where_a_restored_api_has_lost_some(api: FakeApi, tmp_path: Path) -> None:
    with started(api, tmp_path) as reporter:
        for iteration in (1, 2, 3):
            report_loss(reporter, iteration)
            eventually(lambda: iteration in iterations(api))  # noqa: B023
        del api.reports[1:]
        report_loss(reporter, 4)
        assert reporter.close(deadline_seconds=20.0)

    assert iterations(api) == [1, 4]
    assert [report.sequence for report in api.reports] == [1, 2]
