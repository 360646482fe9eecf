"""What the process of a stack does: several attempts at once, each as if it were alone.

Each has its own client, reporter and folder. What ends one ends no other; the last word of each
is said on a thread of its own, while the others train on.
"""

import queue
import shutil
import threading
from collections.abc import Callable
from functools import partial

import structlog

from service.reports import AttemptBrief
from workers.cluster import attempt
from workers.cluster.attempt import LAST_WORDS_SECONDS
from workers.cluster.endings import Ending
from workers.cluster.settings import AttemptSettings
from workers.reporting.reporter import Reporter
from workers.training.loop import Outcome
from workers.training.place import Place
from workers.training.together import Member, train_together

_Order = tuple[AttemptSettings, AttemptBrief]

log = structlog.get_logger()


def run(
    settings: AttemptSettings,
    brief: AttemptBrief,
    *,
    place: Place,
    later: Callable[[], _Order | None],
) -> None:
    """Trains the first attempt and those that join it; returns once all was said of them.

    `later` waits for one that joins; None: there will be none. It is called on a thread.
    """
    arrived: queue.SimpleQueue[_Order] = queue.SimpleQueue()
    arrived.put((settings, brief))

    def listen() -> None:
        while (order := later()) is not None:
            arrived.put(order)

    threading.Thread(target=listen, name="listen", daemon=True).start()
    crew = _Crew()
    # Nobody is waited for: who comes later begins in a fork of its own.
    train_together(
        lambda: crew.begin([arrived.get() for _ in range(arrived.qsize())]),
        place=place,
        data_path=settings.data_path,
    )
    crew.wait()


class _Crew:
    """The members of a stack, and the threads that say their last words."""

    def __init__(self) -> None:
        self._leaving: list[threading.Thread] = []

    def begin(self, orders: list[_Order]) -> list[Member]:
        """Those that could: of any other it is told why."""
        members = []
        for settings, brief in orders:
            log.info("attempt joins a stack", attempt_id=brief.attempt_id)
            try:
                members.append(self._member(settings, brief))
            except Exception as error:  # noqa: BLE001 - the others train on
                self._speak(partial(_fail, settings, error))
        return members

    def wait(self) -> None:
        for thread in self._leaving:
            thread.join()

    def _member(self, settings: AttemptSettings, brief: AttemptBrief) -> Member:
        attempt.remove_earlier(settings, brief)
        api = settings.client()
        reporter = Reporter(api, work_path=settings.attempt_path, last_sequence=brief.last_sequence)
        reporter.start()

        def leave(how: Outcome | Exception) -> None:
            with api:
                if isinstance(how, Outcome):
                    ending = attempt.deliver(api, settings, reporter, how)
                    if ending is not Ending.UNDELIVERED:
                        shutil.rmtree(settings.attempt_path, ignore_errors=True)
                    return
                reporter.close(deadline_seconds=LAST_WORDS_SECONDS)
                is_fenced = reporter.is_fenced
            if not is_fenced:
                _fail(settings, how)

        return Member(
            brief.spec,
            settings.checkpoints_path,
            reporter,
            ended=lambda how: self._speak(partial(leave, how)),
        )

    def _speak(self, last_words: Callable[[], None]) -> None:
        thread = threading.Thread(target=last_words, name="leave")
        self._leaving.append(thread)
        thread.start()


def _fail(settings: AttemptSettings, error: Exception) -> None:
    with settings.client() as api:
        attempt.end_in_failure(api, settings, attempt.failure_of(error))
