"""Several jobs watched at once: a live bar each on a terminal, else plain lines or JSON lines."""

import json
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column

from resnetd import render
from resnetd.client import Client
from resnetd.decoding import decode
from resnetd.errors import NotFinished, UnexpectedAnswer
from resnetd.models import Event, EventKind, Job, JobState, Progress

# Without a terminal a line each ten seconds tells enough and fills no log.
LINE_SECONDS = 10.0


class Screen(Protocol):
    """Where a watch is told. `begin` comes first for each job, `end` last."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def begin(self, job: Job) -> None: ...

    def tell(self, job: Job, event: Event) -> None: ...

    def end(self, job: Job) -> None: ...


def watch(
    client: Client, jobs: list[Job], screen: Screen, *, timeout_seconds: float | None = None
) -> list[Job]:
    """The jobs once all are final. NotFinished after `timeout_seconds`.

    Each job has a thread that waits for its events; what it hears is told from here. They are
    daemons: a watch that is left does not wait for a job that goes on.
    """
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    heard: queue.SimpleQueue[_Heard] = queue.SimpleQueue()
    current: dict[str, Job] = {}
    with screen:
        for job_id in [job.id for job in jobs]:
            # What has happened so far is known from the job, which is read after it.
            so_far = max((event.number or 0 for event in client.events(job_id)), default=0)
            current[job_id] = client.job(job_id)
            screen.begin(current[job_id])
            threading.Thread(
                target=_listen, args=(client, current[job_id], so_far, heard), daemon=True
            ).start()
        open_ids = set(current)
        while open_ids:
            told = _next(heard, deadline)
            if told is None:
                waiting = current[min(open_ids)]
                raise NotFinished(waiting, timeout_seconds=timeout_seconds or 0.0)
            if isinstance(told.what, Exception):
                raise told.what
            if isinstance(told.what, Event):
                screen.tell(current[told.job_id], told.what)
            else:
                current[told.job_id] = told.what
                open_ids.discard(told.job_id)
                screen.end(told.what)
    return list(current.values())


@dataclass(frozen=True)
class _Heard:
    """An event, the job once it is final, or why no more will be heard."""

    job_id: str
    what: Event | Job | Exception


def _listen(client: Client, job: Job, so_far: int, heard: "queue.SimpleQueue[_Heard]") -> None:
    try:
        if not job.is_final:
            for event in client.follow(job.id, after=so_far):
                heard.put(_Heard(job.id, event))
            job = client.job(job.id)
        heard.put(_Heard(job.id, job))
    except Exception as error:  # noqa: BLE001 - the last door: a person gets a sentence
        heard.put(_Heard(job.id, error))


def _next(heard: "queue.SimpleQueue[_Heard]", deadline: float | None) -> _Heard | None:
    """None at the deadline."""
    try:
        return heard.get(timeout=deadline and max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        return None


class _PlainScreen:
    """A screen that has nothing to set up or to put away."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del kind, error, traceback


class JsonScreen(_PlainScreen):
    """Each event as one JSON object in one line, with its job's id."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def begin(self, job: Job) -> None:
        del job

    def tell(self, job: Job, event: Event) -> None:
        self._write({"job_id": job.id, **event.document})

    def end(self, job: Job) -> None:
        self._write({"job_id": job.id, "kind": "end", "data": dict(job.document)})

    def _write(self, document: Mapping[str, Any]) -> None:
        self._console.file.write(json.dumps(document) + "\n")
        self._console.file.flush()


class LineScreen(_PlainScreen):
    """For logs and pipes: what happened at once, progress now and then."""

    def __init__(self, console: Console, *, line_seconds: float = LINE_SECONDS) -> None:
        self._console = console
        self._line_seconds = line_seconds
        self._progress_at: dict[str, float] = {}

    def begin(self, job: Job) -> None:
        self._write(job, f"{job.name}, {job.state}")

    def tell(self, job: Job, event: Event) -> None:
        if event.kind != EventKind.PROGRESS:
            self._write(job, render.event(event))
            return
        now = time.monotonic()
        if now - self._progress_at.get(job.id, -self._line_seconds) >= self._line_seconds:
            self._progress_at[job.id] = now
            at = progress_in(event)
            self._write(job, f"{at.iteration}/{at.iterations}, {render.progress(at)}")

    def end(self, job: Job) -> None:
        self._write(job, render.outcome(job))

    def _write(self, job: Job, text: str) -> None:
        self._console.file.write(f"{job.id} {render.printable(text)}\n")
        self._console.file.flush()


class LiveScreen:
    """One bar a job, redrawn in place; how each ended stays below."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            TextColumn("{task.description}", markup=False, table_column=_whole()),
            BarColumn(bar_width=16, table_column=_whole()),
            MofNCompleteColumn(table_column=_whole()),
            # The only one that a narrow terminal cuts.
            TextColumn("{task.fields[told]}", markup=False, table_column=_rest()),
            console=console,
            expand=True,
            refresh_per_second=4,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def begin(self, job: Job) -> None:
        self._tasks[job.id] = self._bars.add_task(
            render.printable(job.name), total=None, told=job.state
        )
        if job.progress is not None:
            self._move(job, job.progress)

    def tell(self, job: Job, event: Event) -> None:
        if event.kind == EventKind.PROGRESS:
            self._move(job, progress_in(event))
        elif event.kind == EventKind.STATE:
            self._bars.update(self._tasks[job.id], told=render.printable(str(event.data["to"])))
            if event.data.get("reason") and not event.makes_final:
                # An attempt ended: why, for the bar alone would only jump back.
                self._say(job, render.event(event))

    def end(self, job: Job) -> None:
        if job.progress is not None:
            self._move(job, job.progress)
        else:
            self._bars.update(self._tasks[job.id], total=1)  # or the bar would go on pulsing
        self._bars.update(self._tasks[job.id], told=render.outcome(job).splitlines()[0])
        if job.state != JobState.SUCCEEDED:
            self._say(job, render.outcome(job))  # whole: what went wrong may be long

    def _move(self, job: Job, at: Progress) -> None:
        self._bars.update(
            self._tasks[job.id],
            completed=at.iteration,
            total=at.iterations,
            told=render.progress(at),
        )

    def _say(self, job: Job, text: str) -> None:
        self._bars.console.print(
            f"{render.printable(job.name)}: {text}", markup=False, highlight=False, soft_wrap=True
        )


def _whole() -> Column:
    return Column(no_wrap=True)


def _rest() -> Column:
    return Column(no_wrap=True, overflow="ellipsis", ratio=1)


def progress_in(event: Event) -> Progress:
    try:
        return decode(Progress, dict(event.data))
    except ValueError as error:
        raise UnexpectedAnswer(f"an event of progress without it: {error}") from error
