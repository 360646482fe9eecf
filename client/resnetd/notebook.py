"""Shows a watch in a Jupyter notebook: the jobs with their progress and curves, as they change."""

import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

from resnetd import html
from resnetd.cli.watch import Screen, screen_for_output
from resnetd.models import Event, Job

Show = Callable[[str], None]

_SECONDS_BETWEEN_UPDATES = 0.5


def make_screen() -> Screen:
    """For the output of a cell where a Jupyter kernel runs this process, else for a terminal."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return NotebookScreen(_display()) if hasattr(shell, "kernel") else screen_for_output()


def _display() -> Show:
    """Each call replaces what the one before has shown below the cell."""
    from IPython.display import HTML  # noqa: PLC0415 - only notebooks have it
    from IPython.display import display as display_object  # noqa: PLC0415

    handle = display_object(HTML(""), display_id=True)
    return lambda text: handle.update(HTML(text))


class NotebookScreen(Screen):
    """Shows all watched jobs in one output; a change of progress at most twice a second."""

    def __init__(self, show: Show, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._show = show
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._curves: dict[str, list[tuple[float, float]]] = {}
        self._shown_at = -_SECONDS_BETWEEN_UPDATES

    def start(self, job: Job) -> None:
        self._curves[job.id] = list(job.read_curve())
        self._replace(job)

    def update(self, job: Job, event: Event) -> None:
        shown = self._jobs[job.id]
        if (progress := event.progress) is not None:
            shown = msgspec.structs.replace(shown, progress=progress, waiting=None)
            error = progress.metrics.get("test/error")
            curve = self._curves[job.id]
            if error is not None and (not curve or curve[-1][1] != error):
                curve.append((progress.iteration, error))
        elif event.kind == "state":
            state = type(shown.state)(str(event.data["to"]))
            shown = msgspec.structs.replace(shown, state=state, waiting=None)
        self._jobs[job.id] = shown
        if self._clock() - self._shown_at >= _SECONDS_BETWEEN_UPDATES:
            self._show_all()

    def finish(self, job: Job) -> None:
        self._curves[job.id] = list(job.read_curve()) or self._curves[job.id]
        self._replace(job)

    def _replace(self, job: Job) -> None:
        self._jobs[job.id] = job
        self._show_all()

    def _show_all(self) -> None:
        self._shown_at = self._clock()
        self._show(
            "".join(html.job(job, self._curves[job_id]) for job_id, job in self._jobs.items())
        )
