"""Trainings that take turns, each in a process of its own, as it would be run.

All but one of them wait, so that a busy minute of the machine hits each alike.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch

# Before a turn: what loaders of the one before still read ahead is not the next one's burden.
_SETTLE_SECONDS = 0.5


@dataclass
class Score:
    """`rates`: images/s of each turn. `tests`: images seen, and the error in percent."""

    rates: list[float] = field(default_factory=list)
    tests: list[tuple[int, float]] = field(default_factory=list)

    def count(self, images: int, seconds: float) -> None:
        """A turn's."""
        self.rates.append(images / seconds)

    @property
    def images_per_second(self) -> float:
        return statistics.median(self.rates)

    @property
    def error(self) -> float:
        return self.tests[-1][1]

    def seconds_to(self, error: float) -> float:
        """At the median rate: a shared machine's slow minutes hit whoever has his turn."""
        images = next(images for images, attained in self.tests if attained <= error)
        return images / self.images_per_second


class Turns:
    """A contestant's, in its process: `score` is what it has to tell."""

    def __init__(self, line: Connection) -> None:
        self._line = line
        self.score = Score()

    def pass_on(self) -> None:
        """Lets all others have a turn."""
        self._line.send(None)
        self._line.recv()


def hold(contestants: Mapping[str, Callable[[Turns], None]]) -> dict[str, Score]:
    """Trains them all. Each has all cores while it has its turn."""
    context = get_context("spawn")
    scores = {}
    with ExitStack() as opened:
        lines = {}
        for name, contestant in contestants.items():
            ours, its = context.Pipe()
            # Its loaders are its children, which a daemon may not have.
            process = context.Process(target=_train, args=(contestant, its))
            process.start()
            its.close()
            opened.callback(process.join)
            lines[name] = opened.enter_context(closing(ours))  # closed, it ends the process
        while lines:
            for name, line in tuple(lines.items()):
                time.sleep(_SETTLE_SECONDS)
                line.send(None)
                score = line.recv()
                if score is not None:
                    scores[name] = score
                    del lines[name]
    return scores


def _train(contestant: Callable[[Turns], None], line: Connection) -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    line.recv()
    turns = Turns(line)
    contestant(turns)
    line.send(turns.score)
