import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from service.specs.protocol import MAX_LINE_LENGTH, MAX_POINTS
from service.states import CheckpointPart, LogLevel, StopReason
from tests.support.fake_api import FakeApi, Fault, eventually
from tests.support.training import make_step
from tests.workers.reporting.support import (
    ENVIRONMENT,
    files_below,
    iterations,
    report_loss,
    save,
    started,
)
from workers.reporting import reports
from workers.reporting.api_client import AttemptClient
from workers.reporting.reporter import Reporter
from workers.training.observers import Progress


def test_all_observations_arrive_and_nothing_stays_on_disk(api: FakeApi, tmp_path: Path) -> None:
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
    assert [manifest.iteration for manifest in api.checkpoints] == [2]
    assert api.parts[2, CheckpointPart.STATE] == b"state of 2" * 1000
    assert api.violations == []
    assert files_below(tmp_path) == []


def test_heartbeats_are_sent_without_observations(api: FakeApi, tmp_path: Path) -> None:
    with started(api, tmp_path, heartbeat_seconds=0.05):
        eventually(lambda: len(api.reports) >= 3)

    assert all(report.progress is None for report in api.reports)


def test_heartbeats_do_not_pile_up_during_an_outage(api: FakeApi, tmp_path: Path) -> None:
    api.inject_fault(Fault.UNAVAILABLE)
    with started(api, tmp_path, heartbeat_seconds=0.01):
        eventually(lambda: api.requests >= 3)
        assert len(files_below(tmp_path / "spool")) <= 1


def _report_to_disk(reporter: Reporter, iteration: int, work_dir: Path) -> None:
    """Returns when the spool has a report of the iteration; none is acknowledged meanwhile."""

    def newest() -> str:
        return max((file.stem for file in (work_dir / "spool").glob("*.json")), default="")

    before = newest()
    report_loss(reporter, iteration)
    eventually(lambda: newest() > before)


@pytest.mark.parametrize("fault", [None, Fault.UNAVAILABLE, Fault.HANGING, Fault.LOSING_RESPONSES])
def test_an_outage_loses_and_duplicates_nothing(
    fault: Fault | None, api: FakeApi, tmp_path: Path
) -> None:
    """None: connections are refused."""
    with started(api, tmp_path) as reporter:
        report_loss(reporter, 1)
        eventually(lambda: iterations(api) == [1])

        before = api.requests
        if fault is None:
            api.refuse_connections()
        else:
            api.inject_fault(fault)
        for iteration in range(2, 12):
            _report_to_disk(reporter, iteration, tmp_path)
        reporter.on_checkpoint(save(tmp_path, 11))
        if fault is None:
            eventually(lambda: reporter.last_error)
            api.open()
        else:
            eventually(lambda: api.requests >= before + 3)
            api.recover()
        report_loss(reporter, 12)
        assert reporter.close(deadline_seconds=30.0)

    assert iterations(api) == list(range(1, 13))
    assert [manifest.iteration for manifest in api.checkpoints] == [11]
    assert api.violations == []


def test_an_api_that_hangs_does_not_block_training(api: FakeApi, tmp_path: Path) -> None:
    api.inject_fault(Fault.HANGING)
    with started(api, tmp_path, report_seconds=60.0) as reporter:
        reporter.on_start(ENVIRONMENT)
        eventually(lambda: api.requests >= 1)
        saved = save(tmp_path, 1)
        before = time.monotonic()
        report_loss(reporter, 1)
        reporter.on_log(LogLevel.INFO, "still here")
        reporter.on_progress(Progress(iteration=1, iterations=4, images_per_second=None))
        reporter.on_checkpoint(saved)
        assert reporter.stop_requested is None
        assert time.monotonic() - before < 30.0, "less than the request may take"
        api.recover()


def test_a_checkpoint_is_reported_after_all_earlier_metrics(api: FakeApi, tmp_path: Path) -> None:
    with started(api, tmp_path) as reporter:
        for iteration in range(1, 30):
            report_loss(reporter, iteration)
            if iteration % 10 == 0:
                reporter.on_checkpoint(save(tmp_path, iteration))
                eventually(lambda: len(api.checkpoints) == iteration // 10)  # noqa: B023
        assert reporter.close(deadline_seconds=20.0)

    seen: list[int] = []
    for report in api.reports:
        seen += [point.iteration for point in report.metrics]
        for manifest in report.checkpoints:
            assert seen[: manifest.iteration] == list(range(1, manifest.iteration + 1))


def test_of_queued_checkpoints_only_the_newest_and_the_best_are_delivered(
    api: FakeApi, tmp_path: Path
) -> None:
    api.inject_fault(Fault.UNAVAILABLE)
    with started(api, tmp_path) as reporter:
        for iteration, test_error in [(10, 40.0), (20, 20.0), (30, 30.0), (40, None), (50, 25.0)]:
            reporter.on_checkpoint(save(tmp_path, iteration, test_error=test_error))
        eventually(lambda: len(files_below(tmp_path / "outbox")) == 2)
        eventually(lambda: len(list(tmp_path.glob("checkpoint-*"))) == 2)
        api.recover()
        assert reporter.close(deadline_seconds=20.0)

    assert [manifest.iteration for manifest in api.checkpoints] == [20, 50]
    assert files_below(tmp_path) == []


def test_a_queued_best_checkpoint_is_dropped_if_a_better_one_was_delivered(
    api: FakeApi, tmp_path: Path
) -> None:
    with started(api, tmp_path) as reporter:
        reporter.on_checkpoint(save(tmp_path, 10, test_error=5.0))
        eventually(lambda: api.checkpoints)
        api.inject_fault(Fault.UNAVAILABLE)
        for iteration, test_error in [(20, 20.0), (30, 30.0)]:
            reporter.on_checkpoint(save(tmp_path, iteration, test_error=test_error))
        eventually(lambda: len(list(tmp_path.glob("checkpoint-*"))) == 1)
        api.recover()
        assert reporter.close(deadline_seconds=20.0)

    assert [manifest.iteration for manifest in api.checkpoints] == [10, 30]


def test_a_rejected_last_checkpoint_is_logged_and_means_undelivered(
    api: FakeApi, tmp_path: Path
) -> None:
    api.inject_fault(Fault.CORRUPTING)
    with started(api, tmp_path) as reporter:
        reporter.on_checkpoint(save(tmp_path, 10))
        assert not reporter.close(deadline_seconds=20.0)
        assert "corrupt" in str(reporter.last_error)

    assert api.checkpoints == []
    assert "iteration 10 is lost" in api.lines[0].message


class ObservedFuture(Future[None]):
    """Records that its state was read."""

    def __init__(self) -> None:
        super().__init__()
        self.was_read = threading.Event()

    def done(self) -> bool:
        self.was_read.set()
        return super().done()


def test_closing_waits_until_the_last_checkpoint_is_written(api: FakeApi, tmp_path: Path) -> None:
    saved = ObservedFuture()
    with started(api, tmp_path) as reporter, ThreadPoolExecutor(1) as thread:
        reporter.on_checkpoint_pending(saved)
        is_delivered = thread.submit(reporter.close, deadline_seconds=20.0)
        assert saved.was_read.wait(20.0)
        reporter.on_checkpoint(save(tmp_path, 10))
        saved.set_result(None)
        assert is_delivered.result()

    assert [manifest.iteration for manifest in api.checkpoints] == [10]


def test_a_last_checkpoint_that_cannot_be_written_means_undelivered(
    api: FakeApi, tmp_path: Path
) -> None:
    with started(api, tmp_path) as reporter:
        saved = ObservedFuture()
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


def test_a_stale_attempt_stops_training_and_sends_nothing(api: FakeApi, tmp_path: Path) -> None:
    api.inject_fault(Fault.STALE)
    with started(api, tmp_path) as reporter:
        report_loss(reporter, 1)
        eventually(lambda: reporter.is_fenced)
        assert reporter.stop_requested is StopReason.CANCEL
        before = api.requests
        report_loss(reporter, 2)
        reporter.on_checkpoint(save(tmp_path, 2))
        assert not reporter.close(deadline_seconds=20.0)
        assert api.requests == before

    assert api.reports == []


def test_an_invalid_token_fences_the_attempt(api: FakeApi, tmp_path: Path) -> None:
    with AttemptClient(api_url=api.url, attempt_id="job1-a1", token="another") as client:
        reporter = Reporter(client, work_dir=tmp_path, last_sequence=0)
        reporter.start()
        reporter.on_start(ENVIRONMENT)
        eventually(lambda: reporter.is_fenced)
        assert not reporter.close(deadline_seconds=20.0)


def test_observations_beyond_the_limits_take_several_reports(api: FakeApi, tmp_path: Path) -> None:
    with started(api, tmp_path) as reporter:
        values = {f"series/{index}": 0.0 for index in range(2 * MAX_POINTS + 1)}
        reporter.on_metrics(make_step(1), values)
        reporter.on_log(LogLevel.ERROR, "x" * (MAX_LINE_LENGTH + 1))
        assert reporter.close(deadline_seconds=20.0)

    assert len({point.series for point in api.points}) == 2 * MAX_POINTS + 1
    assert max(len(report.metrics) for report in api.reports) == MAX_POINTS
    assert api.lines[0].message == "x" * MAX_LINE_LENGTH


@pytest.mark.parametrize("fault", [Fault.REJECTING_REPORTS, Fault.CORRUPTING_REPORTS])
def test_a_rejected_report_does_not_block_the_next(
    fault: Fault, api: FakeApi, tmp_path: Path
) -> None:
    api.inject_fault(fault)
    with started(api, tmp_path) as reporter:
        report_loss(reporter, 1)
        eventually(lambda: api.lines)
        api.recover()
        report_loss(reporter, 2)
        assert reporter.close(deadline_seconds=20.0)

    assert "was rejected" in api.lines[0].message
    assert iterations(api) == [2]


def test_reports_continue_after_a_restored_database_lost_some(api: FakeApi, tmp_path: Path) -> None:
    with started(api, tmp_path) as reporter:
        for iteration in (1, 2, 3):
            report_loss(reporter, iteration)
            eventually(lambda: iteration in iterations(api))  # noqa: B023
        del api.reports[1:]
        report_loss(reporter, 4)
        assert reporter.close(deadline_seconds=20.0)

    assert iterations(api) == [1, 4]
    assert [report.sequence for report in api.reports] == [1, 2]
