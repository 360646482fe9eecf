"""Several training processes on this machine, without a cluster: gloo over the loopback."""

import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from workers.training.device_context import DeviceContext


def make_context(*, rank: int, num_processes: int, threads: int) -> DeviceContext:
    return DeviceContext(rank, num_processes, torch.device("cpu"), threads)


def run_processes(
    function: Callable[[DeviceContext], None], *, num_processes: int, threads: int
) -> None:
    """Calls `function`, which must be picklable, in new processes that form a process group.

    They are forked from one process that has imported torch, which takes seconds of CPU time. If
    one fails, the others are terminated and torch.multiprocessing's ProcessException is raised.
    """
    multiprocessing.set_forkserver_preload(["workers.training.preload"])
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = (Path(folder) / "rendezvous").as_uri()
        start_processes(  # type: ignore[no-untyped-call]
            _run_rank,
            (function, rendezvous, num_processes, threads),
            nprocs=num_processes,
            start_method="forkserver",
        )


def _run_rank(
    rank: int,
    function: Callable[[DeviceContext], None],
    rendezvous: str,
    num_processes: int,
    threads: int,
) -> None:
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=num_processes)
    try:
        function(make_context(rank=rank, num_processes=num_processes, threads=threads))
    finally:
        dist.destroy_process_group()
