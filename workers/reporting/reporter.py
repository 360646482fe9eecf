"""Delivers to the API what rank 0 observes: on disk within a second, at the API soon after.

    training ─► memory ─1 s─► spool/00000012.json ─► POST report            threads: spool, send
             └► outbox/00000400.json ─► PUT parts ─► manifest into spool    thread: checkpoints

Training itself only writes to memory. While the API is unavailable, reports and checkpoints wait
on disk; what remains there when this process ends is delivered by `drain`.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TypeVar

from service.errors import ResnetdError, SequenceGap, Unavailable
from service.specs.protocol import (
    MAX_LINE_LENGTH,
    MAX_LINES,
    MAX_POINTS,
    CheckpointManifest,
    LaunchTimes,
    LogLine,
    MetricPoint,
    Progress,
    Report,
    RunEnvironment,
)
from service.states import LogLevel, StopReason
from service.supervision import start_supervised
from workers.reporting import reports, spool
from workers.reporting.api_client import AttemptClient
from workers.reporting.checkpoint_outbox import FENCED_ERRORS, CheckpointOutbox
from workers.reporting.retry import MIN_DELAY_SECONDS, retry_until
from workers.reporting.spool import Spool
from workers.training import observers
from workers.training.observers import SavedCheckpoint

# Kept in memory while the disk does not respond; beyond it, the oldest are dropped.
_MAX_PENDING_POINTS = 40 * MAX_POINTS
_MAX_PENDING_LINES = 20 * MAX_LINES

T = TypeVar("T")


@dataclass
class _Pending:
    environment: RunEnvironment | None = None
    launch_times: LaunchTimes | None = None
    progress: Progress | None = None
    metrics: deque[MetricPoint] = field(default_factory=lambda: deque(maxlen=_MAX_PENDING_POINTS))
    logs: deque[LogLine] = field(default_factory=lambda: deque(maxlen=_MAX_PENDING_LINES))
    is_urgent: bool = False

    @property
    def is_empty(self) -> bool:
        return not (
            self.environment or self.launch_times or self.progress or self.metrics or self.logs
        )


class Reporter:
    """An Observer (workers.training.observers). Its calls return at once and never raise.

    >>> reporter = Reporter(api, work_dir=path, last_sequence=config.last_sequence)
    >>> reporter.start()
    >>> ...                                     # train(..., observer=reporter)
    >>> reporter.close(deadline_seconds=900.0)  # True: the API has everything

    A report is sent every `flush_seconds`; the environment, a checkpoint and the first progress
    are sent at once. After `heartbeat_seconds` without observations the report is empty: the
    response says whether training must stop.
    """

    def __init__(
        self,
        api: AttemptClient,
        *,
        work_dir: Path,
        last_sequence: int,
        flush_seconds: float = 1.0,
        heartbeat_seconds: float = 0.5,
        limit_bytes: int = spool.LIMIT_BYTES,
    ) -> None:
        self._api = api
        self._flush_seconds = flush_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._spool = Spool(
            work_dir / "spool", last_sequence=last_sequence, limit_bytes=limit_bytes
        )
        self._outbox = CheckpointOutbox(
            api,
            work_dir / "outbox",
            on_uploaded=self._flush,
            on_rejected=self._log_rejected,
            on_fenced=self._fence,
        )
        self._changed = threading.Condition()
        self._pending = _Pending()
        self._has_progress = False
        # Reports enter the spool in the order of their observations.
        self._flush_lock = threading.Lock()
        self._flushed_at = time.monotonic()
        self._closed = threading.Event()
        self._fenced = threading.Event()
        self._stop: StopReason | None = None
        self._last_error: Exception | None = None
        self._last_write: Future[None] | None = None
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        self._threads = [
            start_supervised(self._flush_when_due, name="spool", stopping=self._closed),
            start_supervised(self._send_oldest, name="send", stopping=self._closed),
        ]
        self._outbox.start()

    def on_start(self, environment: observers.RunEnvironment) -> None:
        with self._changed:
            self._pending.environment = reports.make_environment(environment)
            self._flush_soon()

    def on_first_step(self, times: observers.LaunchTimes) -> None:
        with self._changed:
            self._pending.launch_times = reports.make_launch_times(times)

    def on_progress(self, progress: observers.Progress) -> None:
        with self._changed:
            self._pending.progress = reports.make_progress(progress)
            if not self._has_progress:
                self._has_progress = True
                self._flush_soon()

    def on_metrics(self, step: observers.StepTime, values: Mapping[str, float]) -> None:
        with self._changed:
            self._pending.metrics.extend(reports.make_points(step, values))

    def on_log(self, level: LogLevel, message: str) -> None:
        line = LogLine(at=datetime.now(UTC), level=level, message=message[:MAX_LINE_LENGTH])
        with self._changed:
            self._pending.logs.append(line)

    def on_checkpoint_pending(self, written: Future[None]) -> None:
        self._last_write = written

    def on_checkpoint(self, saved: SavedCheckpoint) -> None:
        """The files are deleted once the API has stored them."""
        self._outbox.add(reports.make_manifest(saved), dict(saved.files))

    @property
    def stop_requested(self) -> StopReason | None:
        return StopReason.CANCEL if self.is_fenced else self._stop

    @property
    def is_fenced(self) -> bool:
        """Whether the API rejects this attempt: it was ended, or another has replaced it."""
        return self._fenced.is_set()

    @property
    def last_error(self) -> BaseException | None:
        """The last error that prevented a delivery."""
        return self._write_error() or self._last_error or self._outbox.last_error

    def close(self, *, deadline_seconds: float) -> bool:
        """Waits for all deliveries. Whether the API has everything, also the last checkpoint."""
        deadline = time.monotonic() + deadline_seconds
        is_delivered = self._is_all_delivered()
        while not (is_delivered or self.is_fenced) and time.monotonic() < deadline:
            with self._changed:
                self._changed.wait(0.05)
            is_delivered = self._is_all_delivered()
        # `drain` delivers what is on disk.
        self._flush()
        self._stop_threads()
        has_last_checkpoint = self._write_error() is None and not self._outbox.is_newest_lost
        return is_delivered and has_last_checkpoint and not self.is_fenced

    def _write_error(self) -> BaseException | None:
        """Why the last checkpoint could not be written; None if it is written or pending."""
        is_done = self._last_write is not None and self._last_write.done()
        return self._last_write.exception() if is_done and self._last_write is not None else None

    def _is_all_delivered(self) -> bool:
        if self._last_write is not None and not self._last_write.done():
            return False
        # In this order: a manifest enters the spool before its checkpoint leaves the outbox.
        if not self._outbox.is_empty:
            return False
        self._flush()
        return self._spool.is_empty

    def _stop_threads(self) -> None:
        self._closed.set()
        self._outbox.close()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(1.0)
        self._outbox.join(1.0)

    def _flush_soon(self) -> None:
        self._pending.is_urgent = True
        self._changed.notify_all()

    def _flush_when_due(self) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._pending.is_urgent or self._closed.is_set(), self._flush_seconds
            )
        is_silent = time.monotonic() - self._flushed_at >= self._heartbeat_seconds
        # Heartbeats would pile up while the API is unavailable.
        self._flush(with_heartbeat=is_silent and self._spool.is_empty)

    def _flush(
        self, manifest: CheckpointManifest | None = None, *, with_heartbeat: bool = False
    ) -> None:
        """Moves pending observations to the spool, and the manifest after them."""
        with self._flush_lock:
            with self._changed:
                pending, self._pending = self._pending, _Pending()
            if pending.is_empty and manifest is None and not with_heartbeat:
                return
            for report in _split_into_reports(pending, manifest):
                self._spool.append(report)
            self._flushed_at = time.monotonic()
        with self._changed:
            self._changed.notify_all()

    def _log_rejected(self, manifest: CheckpointManifest, error: Exception) -> None:
        self.on_log(
            LogLevel.ERROR, f"the checkpoint of iteration {manifest.iteration} is lost: {error}"
        )

    def _send_oldest(self) -> None:
        """Sends the oldest report; waits for one. Raises Unavailable if it must be sent again."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed.is_set() or not self._spool.is_empty, self._flush_seconds
            )
        report = self._spool.read_oldest()
        if report is None or self._closed.is_set():
            return
        try:
            self._post(report)
        except Unavailable as error:
            self._last_error = error
            raise
        except FENCED_ERRORS as error:
            self._fence(error)
        except ResnetdError as error:
            self._last_error = error
            self._drop_content(report, error)
            self._closed.wait(MIN_DELAY_SECONDS)
        else:
            self._last_error = None

    def _post(self, report: Report) -> None:
        try:
            response = self._api.report(report)
        except SequenceGap:
            # A restored database has lost reports that the API had acknowledged.
            self._spool.renumber(after=self._api.fetch_config().last_sequence)
            self._closed.wait(MIN_DELAY_SECONDS)
            return
        self._spool.acknowledge(max(response.last_sequence, report.sequence))
        self._stop = response.stop_reason
        with self._changed:
            self._changed.notify_all()

    def _drop_content(self, report: Report, error: Exception) -> None:
        """Replaces a report that the API rejects, so that later reports can follow."""
        line = LogLine(
            at=datetime.now(UTC),
            level=LogLevel.ERROR,
            message=f"report {report.sequence} was rejected: {error}"[:MAX_LINE_LENGTH],
        )
        self._spool.replace(Report(sequence=report.sequence, logs=[line]))

    def _fence(self, error: Exception) -> None:
        self._last_error = error
        self._closed.set()
        self._outbox.close()
        self._fenced.set()
        with self._changed:
            self._changed.notify_all()


def drain(api: AttemptClient, *, work_dir: Path, deadline_seconds: float) -> bool:
    """Delivers reports and checkpoints that a dead process left under `work_dir`.

    Whether everything was delivered. No other process may write there.
    """
    deadline = time.monotonic() + deadline_seconds
    try:
        config = retry_until(api.fetch_config, deadline_seconds=deadline_seconds)
    except (Unavailable, *FENCED_ERRORS):
        return False
    reporter = Reporter(api, work_dir=work_dir, last_sequence=config.last_sequence)
    reporter.start()
    return reporter.close(deadline_seconds=deadline - time.monotonic())


def _split_into_reports(pending: _Pending, manifest: CheckpointManifest | None) -> list[Report]:
    """Reports within the limits: the environment in the first, the manifest in the last."""
    metrics = list(_chunks(pending.metrics, MAX_POINTS))
    logs = list(_chunks(pending.logs, MAX_LINES))
    count = max(len(metrics), len(logs), 1)
    return [
        Report(
            sequence=1,  # the spool numbers it
            environment=pending.environment if index == 0 else None,
            launch_times=pending.launch_times if index == 0 else None,
            progress=pending.progress if index == count - 1 else None,
            metrics=metrics[index] if index < len(metrics) else [],
            logs=logs[index] if index < len(logs) else [],
            checkpoints=[manifest] if manifest is not None and index == count - 1 else [],
        )
        for index in range(count)
    ]


def _chunks(items: deque[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk
