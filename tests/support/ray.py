"""A real Ray head for tests, and its processes."""

import os

import psutil

from deploy.ray_head import RayHead

# More than the machine has: for Ray it is a number, and most of what is started only waits.
NUM_CPUS = 16


def ray_head() -> RayHead:
    """A head for `with`. For Ray it has a GPU, which a service uses if RESNETD_MAX_GPUS allows."""
    return RayHead(num_cpus=NUM_CPUS, num_gpus=1, env=os.environ)


def processes_of(head: RayHead, title: str) -> list[psutil.Process]:
    """The head's processes whose command line contains `title`, like `ray::RayTrainWorker`."""
    reaper = psutil.Process(head.process.pid)
    return [child for child in reaper.children(recursive=True) if title in _command_line(child)]


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
