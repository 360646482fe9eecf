"""A real Ray head for tests, and a look at its processes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from deploy.ray_head import RayHead

# More than there are: Ray counts them, and most of what is started only waits.
NUM_CPUS = 16


@contextmanager
def ray_head(*, num_cpus: int = NUM_CPUS) -> Iterator[RayHead]:
    """A head that answers job requests; nothing of it is left afterwards.

    Its GPU is one in name only: services do without, unless they are told otherwise.
    """
    head = RayHead(num_cpus=num_cpus, num_gpus=1, env=os.environ)
    try:
        head.wait()
        yield head
    finally:
        head.stop()


def processes_of(head: RayHead, title: str) -> list[psutil.Process]:
    """The head's processes whose command line holds `title`: `ray::RayTrainWorker`, say."""
    keeper = psutil.Process(head.process.pid)
    return [child for child in keeper.children(recursive=True) if title in _command_line(child)]


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
