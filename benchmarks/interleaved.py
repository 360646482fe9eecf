"""Trainings that take turns, each in its own process, as it would run alone.

All but one wait at any time, so that other load on the machine slows each down alike.
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

# Before each turn, so that the loaders of the previous training finish reading ahead.
_SETTLE_SECONDS = 0.5


@dataclass
class Measurements:
    """`rates`: images/s of each turn. `evaluations`: images seen, and the test error in percent."""

    rates: list[float] = field(default_factory=list)
    evaluations: list[tuple[int, float]] = field(default_factory=list)

    def add_turn(self, images: int, seconds: float) -> None:
        self.rates.append(images / seconds)

    @property
    def images_per_second(self) -> float:
        return statistics.median(self.rates)

    @property
    def last_error(self) -> float:
        return self.evaluations[-1][1]

    @property
    def lowest_error(self) -> float:
        return min(error for _, error in self.evaluations)

    def seconds_to(self, error: float) -> float:
        """Seconds of training to this test error, at the median rate of all turns."""
        images = next(images for images, attained in self.evaluations if attained <= error)
        return images / self.images_per_second


class Turns:
    """One training's side: it adds to `measurements`, and waits between its turns."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.measurements = Measurements()

    def wait_for_next(self) -> None:
        """Ends the turn; returns when the next one starts."""
        self._connection.send(None)
        self._connection.recv()


def run_interleaved(trainings: Mapping[str, Callable[[Turns], None]]) -> dict[str, Measurements]:
    """Runs all trainings to their end. During its turn a training has all cores."""
    context = get_context("spawn")
    measurements = {}
    with ExitStack() as stack:
        connections = {}
        for name, training in trainings.items():
            ours, theirs = context.Pipe()
            # Its data loaders are child processes, which a daemon may not have.
            process = context.Process(target=_run_training, args=(training, theirs))
            process.start()
            theirs.close()
            stack.callback(process.join)
            # Closing the connection ends the process.
            connections[name] = stack.enter_context(closing(ours))
        while connections:
            for name, connection in tuple(connections.items()):
                time.sleep(_SETTLE_SECONDS)
                connection.send(None)
                result = connection.recv()
                if result is not None:
                    measurements[name] = result
                    del connections[name]
    return measurements


def _run_training(training: Callable[[Turns], None], connection: Connection) -> None:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    connection.recv()
    turns = Turns(connection)
    training(turns)
    connection.send(turns.measurements)
