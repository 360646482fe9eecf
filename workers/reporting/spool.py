"""Reports on disk until the API has them: one file each, numbered without a gap.

A number's content may be replaced by less as long as the API has not answered for it: where
it had been stored all the same, the repeated number changes nothing there.
"""

import threading
from pathlib import Path

from pydantic import ValidationError

from service.specs.protocol import Report
from service.states import LogLevel

# Days of points: a report of 100 points has about 6 kB.
LIMIT_BYTES = 1 << 30


class Spool:
    """The reports of one attempt that wait to be acknowledged; safe to share between threads.

    Beyond `limit_bytes` the oldest reports lose their points and what is not a warning;
    environment, progress and checkpoints stay. If the disk takes no file (full, read-only), the
    report stays in memory and counts towards the same limit.
    """

    def __init__(self, path: Path, *, last_sequence: int, limit_bytes: int = LIMIT_BYTES) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._sizes: dict[int, int] = {}
        self._size_bytes = 0
        self._in_memory: dict[int, Report] = {}
        self._thinned = last_sequence
        path.mkdir(parents=True, exist_ok=True)
        for leftover in path.glob("*.tmp"):
            leftover.unlink()
        for file in sorted(path.glob("*.json")):
            if int(file.stem) <= last_sequence:
                file.unlink()
            else:
                self._hold(int(file.stem), file.stat().st_size)
        self._newest = max(self._sizes, default=last_sequence)

    @property
    def is_empty(self) -> bool:
        return not self._sizes

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def append(self, report: Report) -> int:
        """Keeps it under the next number, which is returned; its own number is ignored."""
        with self._lock:
            self._newest += 1
            self._write(report.model_copy(update={"sequence": self._newest}))
            self._thin()
            return self._newest

    def oldest(self) -> Report | None:
        """None where everything was acknowledged."""
        with self._lock:
            if not self._sizes:
                return None
            return self._read(next(iter(self._sizes)))

    def acknowledge(self, sequence: int) -> None:
        """Forgets everything up to `sequence`."""
        with self._lock:
            for number in [number for number in self._sizes if number <= sequence]:
                self._forget(number)

    def replace(self, report: Report) -> None:
        with self._lock:
            if report.sequence in self._sizes:
                self._write(report)

    def renumber(self, *, after: int) -> None:
        """Numbers what waits anew from `after` + 1: the API knows nothing beyond `after`."""
        with self._lock:
            waiting = [self._read(number) for number in self._sizes]
            # A death in here may leave two files of one content; with ascending writes to
            # lower numbers none is lost.
            for number, report in enumerate(waiting, start=after + 1):
                self._write(report.model_copy(update={"sequence": number}))
                if report.sequence != number:
                    self._forget(report.sequence)
            self._sizes = dict(sorted(self._sizes.items()))
            self._newest = after + len(waiting)
            self._thinned = after

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
        self._hold(report.sequence, len(content))

    def _read(self, sequence: int) -> Report:
        if sequence in self._in_memory:
            return self._in_memory[sequence]
        try:
            return Report.model_validate_json(self._file(sequence).read_bytes())
        except (OSError, ValidationError):
            # The file was damaged; its number must still arrive or none after it will.
            return Report(sequence=sequence)

    def _hold(self, sequence: int, size_bytes: int) -> None:
        self._size_bytes += size_bytes - self._sizes.get(sequence, 0)
        self._sizes[sequence] = size_bytes

    def _forget(self, sequence: int) -> None:
        self._size_bytes -= self._sizes.pop(sequence)
        self._in_memory.pop(sequence, None)
        self._file(sequence).unlink(missing_ok=True)

    def _thin(self) -> None:
        while self._size_bytes > self._limit_bytes and self._thinned < self._newest:
            self._thinned += 1
            if self._thinned in self._sizes:
                self._write(_thinned(self._read(self._thinned)))

    def _file(self, sequence: int) -> Path:
        return self._path / f"{sequence:08d}.json"


def _thinned(report: Report) -> Report:
    logs = [line for line in report.logs if line.level is not LogLevel.INFO]
    return report.model_copy(update={"metrics": [], "logs": logs})
