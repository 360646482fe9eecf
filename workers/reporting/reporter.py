"""Rank 0's observer: whatever training says is on disk within a second and at the API soon after.

    training ─► pending ─1 s─► spool/00000012.json ─► POST report       threads spool, send
             └► outbox/00000400.json ─► PUT parts ─► note into spool    thread checkpoints

Training only ever touches the first column, which is memory. With the API away reports and
checkpoints wait on disk, and what waits survives this process: `drain` delivers it.
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

from service.errors import Refused, SequenceGap, Unavailable
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
from workers.reporting import reports, spool
from workers.reporting.api_client import ApiClient
from workers.reporting.checkpoint_outbox import FENCED_ERRORS, CheckpointOutbox
from workers.reporting.retry import SHORTEST_SECONDS, Backoff, retry_until
from workers.reporting.spool import Spool
from workers.training import observers
from workers.training.observers import SavedCheckpoint

# What waits in memory while the disk hangs; beyond it the oldest goes.
_MAX_PENDING_POINTS = 40 * MAX_POINTS
_MAX_PENDING_LINES = 20 * MAX_LINES

T = TypeVar("T")


@dataclass
class _Pending:
    environment: RunEnvironment | None = None
    launch: LaunchTimes | None = None
    progress: Progress | None = None
    metrics: deque[MetricPoint] = field(default_factory=lambda: deque(maxlen=_MAX_PENDING_POINTS))
    logs: deque[LogLine] = field(default_factory=lambda: deque(maxlen=_MAX_PENDING_LINES))
    is_urgent: bool = False

    @property
    def is_empty(self) -> bool:
        return not (self.environment or self.launch or self.progress or self.metrics or self.logs)


class Reporter:
    """An Observer (workers.training.observers). Its calls return at once and never raise.

    >>> reporter = Reporter(api, work_path=path, last_sequence=brief.last_sequence)
    >>> reporter.start()
    >>> ...                                     # train(..., observer=reporter)
    >>> reporter.close(deadline_seconds=900.0)  # True: the API has everything

    A report goes out each `flush_seconds`, sooner for environment, a checkpoint or the first
    progress. Where nothing was said for `heartbeat_seconds` it is empty: its answer is how
    training hears that it should stop.
    """

    def __init__(
        self,
        api: ApiClient,
        *,
        work_path: Path,
        last_sequence: int,
        flush_seconds: float = 1.0,
        heartbeat_seconds: float = 0.5,
        limit_bytes: int = spool.LIMIT_BYTES,
    ) -> None:
        self._api = api
        self._flush_seconds = flush_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._spool = Spool(
            work_path / "spool", last_sequence=last_sequence, limit_bytes=limit_bytes
        )
        self._outbox = CheckpointOutbox(
            api,
            work_path / "outbox",
            on_uploaded=self._note,
            on_refused=self._tell_refusal,
            on_fenced=self._fence,
        )
        self._changed = threading.Condition()
        self._pending = _Pending()
        self._has_progress = False
        # Held from taking what is pending until it lies in the spool: order is numbers' order.
        self._sealing = threading.Lock()
        self._sealed_at = time.monotonic()
        self._ended = threading.Event()
        self._fenced = threading.Event()
        self._stop: StopReason | None = None
        self._last_error: Exception | None = None
        self._saved: Future[None] | None = None
        self._threads = [
            threading.Thread(target=self._seal_now_and_then, name="spool", daemon=True),
            threading.Thread(target=self._send, name="send", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        self._outbox.start()

    def on_start(self, environment: observers.RunEnvironment) -> None:
        with self._changed:
            self._pending.environment = reports.make_environment(environment)
            self._hurry()

    def on_first_step(self, times: observers.LaunchTimes) -> None:
        with self._changed:
            self._pending.launch = reports.make_launch_times(times)

    def on_progress(self, progress: observers.Progress) -> None:
        with self._changed:
            self._pending.progress = reports.make_progress(progress)
            if not self._has_progress:
                self._has_progress = True
                self._hurry()

    def on_metrics(self, iteration: int, values: Mapping[str, float]) -> None:
        with self._changed:
            self._pending.metrics.extend(reports.make_points(iteration, values))

    def on_log(self, level: LogLevel, message: str) -> None:
        line = LogLine(at=datetime.now(UTC), level=level, message=message[:MAX_LINE_LENGTH])
        with self._changed:
            self._pending.logs.append(line)

    def on_checkpoint_pending(self, written: Future[None]) -> None:
        self._saved = written

    def on_checkpoint(self, saved: SavedCheckpoint) -> None:
        """The files are deleted once the API has stored them."""
        self._outbox.add(reports.make_manifest(saved), dict(saved.files))

    @property
    def stop_requested(self) -> StopReason | None:
        return StopReason.CANCEL if self.is_fenced else self._stop

    @property
    def is_fenced(self) -> bool:
        """Whether the API has refused this attempt: another one has taken over, or it was ended."""
        return self._fenced.is_set()

    @property
    def last_error(self) -> BaseException | None:
        """What kept things from being delivered, last."""
        return self._unsaved() or self._last_error or self._outbox.last_error

    def close(self, *, deadline_seconds: float) -> bool:
        """Whether the API has everything, the last checkpoint too. Waits for it until then."""
        deadline = time.monotonic() + deadline_seconds
        is_delivered = self._is_all_delivered()
        while not (is_delivered or self.is_fenced) and time.monotonic() < deadline:
            with self._changed:
                self._changed.wait(0.05)
            is_delivered = self._is_all_delivered()
        # What training still said in the meantime must survive on disk at least.
        self._seal()
        self._end()
        is_whole = self._unsaved() is None and not self._outbox.lost_the_newest
        return is_delivered and is_whole and not self.is_fenced

    def _unsaved(self) -> BaseException | None:
        """What kept the last checkpoint from being written. None: nothing did yet."""
        is_done = self._saved is not None and self._saved.done()
        return self._saved.exception() if is_done and self._saved is not None else None

    def _is_all_delivered(self) -> bool:
        if self._saved is not None and not self._saved.done():
            return False
        # In this order: what leaves the outbox goes to the spool before it is forgotten there.
        if not self._outbox.is_empty:
            return False
        self._seal()
        return self._spool.is_empty

    def _end(self) -> None:
        self._ended.set()
        self._outbox.end()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(1.0)
        self._outbox.join(1.0)

    def _hurry(self) -> None:
        self._pending.is_urgent = True
        self._changed.notify_all()

    # ---- spool ----

    def _seal_now_and_then(self) -> None:
        while not self._is_over:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._pending.is_urgent or self._is_over, self._flush_seconds
                )
            is_silent = time.monotonic() - self._sealed_at >= self._heartbeat_seconds
            # While the API is away heartbeats would only pile up.
            self._seal(with_heartbeat=is_silent and self._spool.is_empty)

    def _seal(
        self, note: CheckpointManifest | None = None, *, with_heartbeat: bool = False
    ) -> None:
        """Moves what is pending to the spool, and `note` after it."""
        with self._sealing:
            with self._changed:
                pending, self._pending = self._pending, _Pending()
            if pending.is_empty and note is None and not with_heartbeat:
                return
            for report in _reports(pending, note):
                self._spool.append(report)
            self._sealed_at = time.monotonic()
        with self._changed:
            self._changed.notify_all()

    def _note(self, note: CheckpointManifest) -> None:
        self._seal(note)

    def _tell_refusal(self, note: CheckpointManifest, error: Exception) -> None:
        self.on_log(
            LogLevel.ERROR, f"the checkpoint of iteration {note.iteration} is lost: {error}"
        )

    # ---- send ----

    def _send(self) -> None:
        backoff = Backoff()
        while not self._is_over:
            report = self._spool.oldest()
            if report is None:
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._is_over or not self._spool.is_empty, self._flush_seconds
                    )
                continue
            try:
                self._post(report)
            except Unavailable as error:
                self._last_error = error
                self._ended.wait(backoff.next_seconds())
            except FENCED_ERRORS as error:
                self._fence(error)
            except Refused as error:
                self._last_error = error
                self._give_up_content(report, error)
                self._ended.wait(backoff.next_seconds())
            else:
                self._last_error = None
                backoff.reset()

    def _post(self, report: Report) -> None:
        try:
            control = self._api.report(report)
        except SequenceGap:
            # The API has lost reports that it had acknowledged: a restored database. What is
            # here still follows on what is there.
            self._spool.renumber(after=self._api.brief().last_sequence)
            self._ended.wait(SHORTEST_SECONDS)
            return
        self._spool.acknowledge(max(control.last_sequence, report.sequence))
        self._stop = control.stop_reason
        with self._changed:
            self._changed.notify_all()

    def _give_up_content(self, report: Report, error: Exception) -> None:
        """A report that will never be taken must not hold up those after it."""
        line = LogLine(
            at=datetime.now(UTC),
            level=LogLevel.ERROR,
            message=f"report {report.sequence} was refused: {error}"[:MAX_LINE_LENGTH],
        )
        self._spool.replace(Report(sequence=report.sequence, logs=[line]))

    def _fence(self, error: Exception) -> None:
        self._last_error = error
        self._ended.set()
        self._outbox.end()
        self._fenced.set()
        with self._changed:
            self._changed.notify_all()

    @property
    def _is_over(self) -> bool:
        return self._ended.is_set()


def drain(api: ApiClient, *, work_path: Path, deadline_seconds: float) -> bool:
    """Delivers what a dead process left under `work_path`: reports, then checkpoints.

    Whether all of it arrived. Only once nothing writes there any more.
    """
    deadline = time.monotonic() + deadline_seconds
    try:
        brief = retry_until(api.brief, deadline_seconds=deadline_seconds)
    except (Unavailable, *FENCED_ERRORS):
        return False
    reporter = Reporter(api, work_path=work_path, last_sequence=brief.last_sequence)
    reporter.start()
    return reporter.close(deadline_seconds=deadline - time.monotonic())


def _reports(pending: _Pending, note: CheckpointManifest | None) -> list[Report]:
    """One report, or as many as the limits want; environment in the first, the note in the last."""
    metrics = list(_chunks(pending.metrics, MAX_POINTS))
    logs = list(_chunks(pending.logs, MAX_LINES))
    count = max(len(metrics), len(logs), 1)
    return [
        Report(
            sequence=1,  # the spool numbers it
            environment=pending.environment if index == 0 else None,
            launch_times=pending.launch if index == 0 else None,
            progress=pending.progress if index == count - 1 else None,
            metrics=metrics[index] if index < len(metrics) else [],
            logs=logs[index] if index < len(logs) else [],
            checkpoints=[note] if note is not None and index == count - 1 else [],
        )
        for index in range(count)
    ]


def _chunks(items: deque[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk
