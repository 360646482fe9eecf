"""What the process of a stack does: several attempts at once, each as if it were alone.

Each has its own client, reporter and folder. What ends one ends no other; the last word of each
is said on a thread of its own, while the others train on.
"""

import queue
import shutil
import threading
from collections.abc import Callable

import structlog

from service.reports import AttemptBrief
from workers.cluster import attempt
from workers.cluster.attempt import LAST_WORDS_SECONDS
from workers.cluster.endings import Ending
from workers.cluster.settings import AttemptSettings
from workers.reporting.reporter import Reporter
from workers.training.loop import Outcome, Place
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
        lambda _is_idle: [crew.member(*order) for order in _all_of(arrived)],
        place=place,
        data_path=settings.data_path,
    )
    crew.wait()


class _Crew:
    """The members of a stack, and the threads that say their last words."""

    def __init__(self) -> None:
        self._leaving: list[threading.Thread] = []

    def member(self, settings: AttemptSettings, brief: AttemptBrief) -> Member:
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
                if not reporter.is_fenced:
                    attempt.end_in_failure(api, settings, attempt.failure_of(how))

        def ended(how: Outcome | Exception) -> None:
            thread = threading.Thread(target=leave, args=[how], name="leave")
            self._leaving.append(thread)
            thread.start()

        log.info("attempt joins a stack", attempt_id=brief.attempt_id)
        return Member(brief.spec, settings.checkpoints_path, reporter, ended)

    def wait(self) -> None:
        for thread in self._leaving:
            thread.join()


def _all_of(arrived: queue.SimpleQueue[_Order]) -> list[_Order]:
    return [arrived.get() for _ in range(arrived.qsize())]
