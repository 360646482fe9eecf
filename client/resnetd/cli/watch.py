"""Watches jobs until they end, with progress bars, lines or JSON lines."""

import json
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column

from resnetd.cli import render
from resnetd.errors import NotFinished
from resnetd.jobs import Jobs
from resnetd.models import Event, EventKind, Job, JobState, Progress

# Without a terminal, a progress line every ten seconds keeps a log short.
LINE_SECONDS = 10.0


class Screen:
    """Shows a watch: `start` comes first for each job, `finish` last."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        del exception

    def start(self, job: Job) -> None:
        raise NotImplementedError

    def update(self, job: Job, event: Event) -> None:
        raise NotImplementedError

    def finish(self, job: Job) -> None:
        raise NotImplementedError


def screen_for(console: Console) -> Screen:
    """Bars on a terminal, lines elsewhere."""
    return LiveScreen(console) if console.is_terminal else LineScreen(console)


def screen_for_output() -> Screen:
    """For the standard output of this process."""
    return screen_for(Console(highlight=False))


def watch(
    jobs: Jobs, watched: Sequence[Job], screen: Screen, *, timeout_seconds: float | None = None
) -> list[Job]:
    """The jobs when all have ended, or are held by the service. NotFinished after the timeout.

    A thread per job waits for its events; this thread shows them. The threads are daemons: the
    process can end while jobs run.
    """
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    updates: queue.SimpleQueue[_Update] = queue.SimpleQueue()
    current: dict[str, Job] = {}
    with screen:
        for job_id in [job.id for job in watched]:
            current[job_id], last = _read(jobs, job_id)
            screen.start(current[job_id])
            arguments = (jobs, current[job_id], last, updates)
            threading.Thread(target=_follow, args=arguments, daemon=True).start()
        open_ids = set(current)
        while open_ids:
            update = _next(updates, deadline)
            if update is None:
                unfinished = current[min(open_ids)]
                raise NotFinished(unfinished, timeout_seconds=timeout_seconds or 0.0)
            if isinstance(update.value, Exception):
                raise update.value
            if isinstance(update.value, Event):
                screen.update(current[update.job_id], update.value)
            else:
                current[update.job_id] = update.value
                open_ids.discard(update.job_id)
                screen.finish(update.value)
    return list(current.values())


def _read(jobs: Jobs, job_id: str) -> tuple[Job, int]:
    """The job, and the number of the newest event that it includes: none comes twice."""
    last = 0
    while True:
        last = max((event.number or 0 for event in jobs.events(job_id, after=last)), default=last)
        job = jobs.get(job_id)
        if not any(jobs.events(job_id, after=last)):
            return job, last


@dataclass(frozen=True)
class _Update:
    """An event, the job after its end, or the error that ended the thread."""

    job_id: str
    value: Event | Job | Exception


def _follow(jobs: Jobs, job: Job, after: int, updates: "queue.SimpleQueue[_Update]") -> None:
    try:
        if not job.is_final and not job.is_held_by_service:
            for event in jobs.watch(job.id, after=after):
                updates.put(_Update(job.id, event))
            job = jobs.get(job.id)
        updates.put(_Update(job.id, job))
    except Exception as error:  # noqa: BLE001 - the watching thread raises it
        updates.put(_Update(job.id, error))


def _next(updates: "queue.SimpleQueue[_Update]", deadline: float | None) -> _Update | None:
    """None at the deadline."""
    try:
        return updates.get(timeout=deadline and max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        return None


class JsonScreen(Screen):
    """Prints each event as a line of JSON with the id of its job."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def start(self, job: Job) -> None:
        del job

    def update(self, job: Job, event: Event) -> None:
        self._write({"job_id": job.id, **event.document})

    def finish(self, job: Job) -> None:
        self._write({"job_id": job.id, "kind": "end", "data": job.document})

    def _write(self, document: Mapping[str, Any]) -> None:
        self._console.file.write(json.dumps(document) + "\n")
        self._console.file.flush()


class LineScreen(Screen):
    """Prints a line for each event at once, and for progress every `line_seconds`."""

    def __init__(self, console: Console, *, line_seconds: float = LINE_SECONDS) -> None:
        self._console = console
        self._line_seconds = line_seconds
        self._progress_at: dict[str, float] = {}

    def start(self, job: Job) -> None:
        self._write(job, f"{job.name}, {job.state}")

    def update(self, job: Job, event: Event) -> None:
        progress = event.progress
        if progress is None:
            self._write(job, render.event(event))
            return
        now = time.monotonic()
        if now - self._progress_at.get(job.id, -self._line_seconds) >= self._line_seconds:
            self._progress_at[job.id] = now
            done = f"{progress.iteration}/{progress.iterations}"
            values = render.progress(progress)
            self._write(job, f"{done}, {values}" if values else done)

    def finish(self, job: Job) -> None:
        self._write(job, render.outcome(job))

    def _write(self, job: Job, text: str) -> None:
        self._console.file.write(f"{job.id} {render.printable(text)}\n")
        self._console.file.flush()


class LiveScreen(Screen):
    """Shows a bar per job; the outcome of each stays on the screen."""

    def __init__(self, console: Console) -> None:
        fixed = Column(no_wrap=True)
        self._bars = Bars(
            TextColumn("{task.description}", markup=False, table_column=fixed),
            BarColumn(bar_width=16, table_column=fixed.copy()),
            MofNCompleteColumn(table_column=fixed.copy()),
            # The only column that a narrow terminal cuts.
            TextColumn(
                "{task.fields[status]}",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            ),
            console=console,
            expand=True,
            refresh_per_second=4,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def start(self, job: Job) -> None:
        self._tasks[job.id] = self._bars.add_task(
            render.printable(job.name), total=None, status=job.state
        )
        if job.progress is not None:
            self._advance(job, job.progress)

    def update(self, job: Job, event: Event) -> None:
        if event.progress is not None:
            self._advance(job, event.progress)
        elif event.kind == EventKind.STATE:
            status = render.printable(str(event.data["to"]))
            self._bars.update(self._tasks[job.id], status=status)
            if event.data.get("reason") and not event.is_final:
                # An attempt ended: without the reason the bar would only jump back.
                self._print(job, render.event(event))

    def finish(self, job: Job) -> None:
        task = self._tasks[job.id]
        if job.progress is not None:
            self._advance(job, job.progress)
        else:
            self._bars.update(task, total=1)  # ends the pulsing of the bar
        self._bars.update(task, status=render.outcome(job).splitlines()[0])
        if job.state != JobState.SUCCEEDED:
            self._print(job, render.outcome(job))  # not cut: the message may be long

    def _advance(self, job: Job, progress: Progress) -> None:
        self._bars.update(
            self._tasks[job.id],
            completed=progress.iteration,
            total=progress.iterations,
            status=render.progress(progress),
        )

    def _print(self, job: Job, text: str) -> None:
        self._bars.console.print(
            f"{render.printable(job.name)}: {text}", markup=False, highlight=False, soft_wrap=True
        )
