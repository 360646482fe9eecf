"""The process of one rank for one attempt: joins the process group, trains, and delivers."""

import gc
import multiprocessing
import os
import sys
import threading
import traceback
from contextlib import suppress
from datetime import timedelta
from multiprocessing import connection
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from service import log
from workers.cluster.attempt_process import classify_failure, configure_logs, run_rank
from workers.cluster.process_launcher import (
    Joined,
    RankPlacement,
    Rendezvous,
    RunAttempt,
    Trained,
)
from workers.training.device_context import DeviceContext

# A collective that hangs must fail; torch's default of 30 minutes is a third of a short run.
_COLLECTIVE_TIMEOUT = timedelta(seconds=600)
_PARENT_CHECK_SECONDS = 1.0


def main(pipe: Connection, placement: RankPlacement) -> None:
    log.configure()
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        _run_attempt(pipe, placement)
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        if not pipe.closed:
            with suppress(OSError):
                pipe.send(classify_failure(error))
        sys.exit(1)


def _run_attempt(pipe: Connection, placement: RankPlacement) -> None:
    device = _set_device(placement)
    store = _make_store(placement)
    pipe.send(Rendezvous(placement.host, store.port if store is not None else 0))
    try:
        rendezvous: Rendezvous = pipe.recv()
        if placement.world_size > 1:
            dist.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                store=store
                or TCPStore(rendezvous.host, rendezvous.port, timeout=_COLLECTIVE_TIMEOUT),
                rank=placement.rank,
                world_size=placement.world_size,
                timeout=_COLLECTIVE_TIMEOUT,
            )
        pipe.send(Joined())
        attempt: RunAttempt = pipe.recv()
    except EOFError:
        return  # the runner exits
    configure_logs(attempt.settings, rank=placement.rank)

    def release_device() -> None:
        if dist.is_initialized():
            dist.destroy_process_group()
        if device.type == "cuda":
            gc.collect()  # what still refers to a tensor of the run
            torch.cuda.empty_cache()
        pipe.send(Trained())
        pipe.close()

    run_rank(
        attempt.settings,
        attempt.config,
        context=DeviceContext(
            rank=placement.rank,
            world_size=placement.world_size,
            device=device,
            threads=attempt.config.cpus_per_worker,
            gpu_share=attempt.config.gpus_per_worker or 1.0,
        ),
        local_rank=placement.local_rank,
        barrier=_barrier if placement.world_size > 1 else _no_barrier,
        on_trained=release_device,
    )
    if not pipe.closed:
        # Other ranks have nothing to deliver, nor has an attempt that was replaced.
        release_device()


def _set_device(placement: RankPlacement) -> torch.device:
    if placement.visible_devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = placement.visible_devices
    device = torch.device(placement.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _make_store(placement: RankPlacement) -> TCPStore | None:
    """Rank 0's, on a free port."""
    if placement.rank > 0 or placement.world_size == 1:
        return None
    return TCPStore(
        placement.host, 0, is_master=True, wait_for_workers=False, timeout=_COLLECTIVE_TIMEOUT
    )


def _barrier() -> None:
    dist.barrier()


def _no_barrier() -> None: ...


def _exit_with_parent() -> None:
    """The launcher kills its processes; if it is killed itself, or the fork server, they exit."""
    launcher, fork_server = multiprocessing.parent_process(), os.getppid()
    assert launcher is not None
    while os.getppid() == fork_server:
        if connection.wait([launcher.sentinel], _PARENT_CHECK_SECONDS):
            break
    os._exit(1)
