"""Keeps reports on disk until the API has them: one file per report, numbered without a gap.

A report may be replaced by a smaller one until the API has acknowledged its number. If the API
had stored it without this process knowing, the repeated number changes nothing there.
"""

import threading
from pathlib import Path

from pydantic import ValidationError

from service.specs.protocol import Report
from service.states import LogLevel

# Days of metrics: a report of 100 points has about 6 kB.
LIMIT_BYTES = 1 << 30


class Spool:
    """The reports of one attempt that the API has not acknowledged. Thread-safe.

    Beyond `limit_bytes` the oldest reports lose their metrics and info lines; environment,
    progress and checkpoints stay. If the disk accepts no file (full, read-only), a report stays in
    memory and counts towards the same limit.
    """

    def __init__(self, path: Path, *, last_sequence: int, limit_bytes: int = LIMIT_BYTES) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._sizes: dict[int, int] = {}
        self._size_bytes = 0
        self._in_memory: dict[int, Report] = {}
        self._reduced_until = last_sequence
        path.mkdir(parents=True, exist_ok=True)
        for leftover in path.glob("*.tmp"):
            leftover.unlink()
        for file in sorted(path.glob("*.json")):
            if int(file.stem) <= last_sequence:
                file.unlink()
            else:
                self._record_size(int(file.stem), file.stat().st_size)
        self._newest = max(self._sizes, default=last_sequence)

    @property
    def is_empty(self) -> bool:
        return not self._sizes

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def append(self, report: Report) -> int:
        """Stores the report under the next number, which is returned; its own is ignored."""
        with self._lock:
            self._newest += 1
            self._write(report.model_copy(update={"sequence": self._newest}))
            self._reduce()
            return self._newest

    def read_oldest(self) -> Report | None:
        """None if all reports are acknowledged."""
        with self._lock:
            if not self._sizes:
                return None
            return self._read(next(iter(self._sizes)))

    def acknowledge(self, sequence: int) -> None:
        """Deletes all reports up to `sequence`."""
        with self._lock:
            for number in [number for number in self._sizes if number <= sequence]:
                self._delete(number)

    def replace(self, report: Report) -> None:
        with self._lock:
            if report.sequence in self._sizes:
                self._write(report)

    def renumber(self, *, after: int) -> None:
        """Numbers the reports from `after` + 1; the API has none beyond `after`."""
        with self._lock:
            waiting = [self._read(number) for number in self._sizes]
            # If the process dies here, two files may have the same content, but none is lost:
            # numbers only become smaller, and the writes ascend.
            for number, report in enumerate(waiting, start=after + 1):
                self._write(report.model_copy(update={"sequence": number}))
                if report.sequence != number:
                    self._delete(report.sequence)
            self._sizes = dict(sorted(self._sizes.items()))
            self._newest = after + len(waiting)
            self._reduced_until = after

    def _write(self, report: Report) -> None:
        content = report.model_dump_json().encode()
        file = self._file(report.sequence)
        partial = file.with_suffix(".tmp")
        try:
            partial.write_bytes(content)
            partial.replace(file)
            self._in_memory.pop(report.sequence, None)
        except OSError:
            self._in_memory[report.sequence] = report
        self._record_size(report.sequence, len(content))

    def _read(self, sequence: int) -> Report:
        if sequence in self._in_memory:
            return self._in_memory[sequence]
        try:
            return Report.model_validate_json(self._file(sequence).read_bytes())
        except (OSError, ValidationError):
            # The API accepts no later number without this one.
            return Report(sequence=sequence)

    def _record_size(self, sequence: int, size_bytes: int) -> None:
        self._size_bytes += size_bytes - self._sizes.get(sequence, 0)
        self._sizes[sequence] = size_bytes

    def _delete(self, sequence: int) -> None:
        self._size_bytes -= self._sizes.pop(sequence)
        self._in_memory.pop(sequence, None)
        self._file(sequence).unlink(missing_ok=True)

    def _reduce(self) -> None:
        while self._size_bytes > self._limit_bytes and self._reduced_until < self._newest:
            self._reduced_until += 1
            if self._reduced_until in self._sizes:
                self._write(_drop_metrics(self._read(self._reduced_until)))

    def _file(self, sequence: int) -> Path:
        return self._path / f"{sequence:08d}.json"


def _drop_metrics(report: Report) -> Report:
    logs = [line for line in report.logs if line.level is not LogLevel.INFO]
    return report.model_copy(update={"metrics": [], "logs": logs})
