"""Training in several processes of this machine, without a cluster: gloo over the loopback."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn as spawn_processes

from workers.training.device_context import DeviceContext


def place(*, rank: int, num_processes: int, threads: int) -> DeviceContext:
    return DeviceContext(rank, num_processes, torch.device("cpu"), threads)


def spawn(work: Callable[[DeviceContext], None], *, num_processes: int, threads: int) -> None:
    """Runs `work` in that many fresh processes, each with its place in one process group.

    `work` must be picklable. torch.multiprocessing's ProcessException where one of them fails;
    the others are ended then.
    """
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = (Path(folder) / "rendezvous").as_uri()
        spawn_processes(  # type: ignore[no-untyped-call]
            _enter, (work, rendezvous, num_processes, threads), nprocs=num_processes
        )


def _enter(
    rank: int,
    work: Callable[[DeviceContext], None],
    rendezvous: str,
    num_processes: int,
    threads: int,
) -> None:
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=num_processes)
    try:
        work(place(rank=rank, num_processes=num_processes, threads=threads))
    finally:
        dist.destroy_process_group()
