"""Forks a process for each attempt from one that has imported torch and done nothing else.

Importing torch takes seconds of CPU time, forking milliseconds. A rank's own process, which Ray
made, has threads and cannot be forked; the server is a process without any. A fork has the
imports in common with its elders and nothing else: its random numbers, threads, device memory
and open files are its own, and end with it.

One for each runner on each of its nodes. What is said is in workers.cluster.forks, the other end.
"""

import ctypes
import gc
import os
import select
import shutil
import signal
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from service.catalog.architectures import Family
from service.specs.protocol import AttemptConfig
from workers.cluster.attempt_process import classify_failure, run_rank
from workers.cluster.fork_client import JsonConnection, RankAssignment, Rendezvous
from workers.cluster.process_settings import AttemptSettings
from workers.training import preload
from workers.training.device_context import DeviceContext

_PR_SET_PDEATHSIG = 1
# Of a collective: a hung one must become a failure. Torch's 30 minutes are a third of a short run.
_COLLECTIVE = timedelta(seconds=600)
# So many may still deliver while another trains.
_MAX_DELIVERING = 4


def main() -> NoReturn:
    parent, folder, listener = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    # Ray tells a runner to end by telling all below it, and the runner ends its attempt in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _die_with_parent(parent, signal.SIGTERM)
        # A pool of threads would be lost in a fork, and who waits for it waits for ever.
        torch.set_num_threads(1)
        preload.import_all()
        _Server(socket.socket(fileno=listener)).serve()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class _Fork:
    """As its server sees it. `line` is None once its training is over."""

    pid: int
    line: JsonConnection | None
    turn: int  # what it can be heard on: a word when its training is over, the end when it ends


class _Turn:
    """A fork's word that its training is over."""

    def __init__(self, write: int) -> None:
        self._write = write
        self.is_over = False

    def hand_back(self) -> None:
        self.is_over = True
        os.write(self._write, b".")


class _Server:
    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._poll = select.epoll()
        self._poll.register(listener, select.EPOLLIN)
        self._forks: list[_Fork] = []
        # Who asked for a fork, or for the end of deliveries, and waits until there are fewer.
        self._waiting: list[tuple[JsonConnection, dict[str, Any]]] = []

    def serve(self) -> NoReturn:
        while True:
            for number, _ in self._poll.poll():
                if number == self._listener.fileno():
                    self._greet()
                    continue
                for fork in tuple(self._forks):
                    if number == fork.turn:
                        self._hear_of(fork)
                    elif fork.line is not None and number == fork.line.fileno():
                        # The rank is gone; its death is heard of next.
                        self._poll.unregister(number)
                        os.kill(fork.pid, signal.SIGKILL)

    @property
    def _num_delivering(self) -> int:
        return sum(fork.line is None for fork in self._forks)

    def _greet(self) -> None:
        line = JsonConnection(self._listener.accept()[0])
        message = line.hear()
        if message is None:
            line.close()
            return
        self._waiting.append((line, message))
        self._serve_the_waiting()

    def _serve_the_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for line, message in waiting:
            if self._num_delivering > (0 if "drain" in message else _MAX_DELIVERING):
                self._waiting.append((line, message))
            elif "drain" in message:
                with suppress(OSError):
                    line.tell({"drained": True})
                line.close()
            else:
                self._fork(line, message)

    def _fork(self, line: JsonConnection, message: dict[str, Any]) -> None:
        if message["images"] is not None:
            dataset, data_path, family = message["images"]
            preload.cache_images(dataset, Path(data_path), family=Family(family))
        ours, its = os.pipe()
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            os.close(ours)
            self._close()
            _run_fork(server, RankAssignment(**message["fork"]), line, _Turn(its))
        os.close(its)
        self._forks.append(_Fork(pid, line, ours))
        self._poll.register(ours, select.EPOLLIN)
        # Not what comes in, which is the fork's to read.
        self._poll.register(line, select.EPOLLRDHUP)

    def _hear_of(self, fork: _Fork) -> None:
        is_ended = not os.read(fork.turn, 1)
        status = 0
        if is_ended:
            self._poll.unregister(fork.turn)
            os.close(fork.turn)
            _, waited = os.waitpid(fork.pid, 0)
            status = os.waitstatus_to_exitcode(waited)
            self._forks.remove(fork)
        if fork.line is not None:
            with suppress(OSError):
                fork.line.tell({"over": status})
            with suppress(FileNotFoundError):
                self._poll.unregister(fork.line)
            fork.line.close()
            fork.line = None
        if is_ended:
            self._serve_the_waiting()

    def _close(self) -> None:
        """In a fork: what is its elders' and its server's."""
        self._poll.close()
        self._listener.close()
        for fork in self._forks:
            os.close(fork.turn)
            if fork.line is not None:
                fork.line.close()
        for line, _ in self._waiting:
            line.close()


def _run_fork(server: int, seat: RankAssignment, line: JsonConnection, turn: _Turn) -> NoReturn:
    """The life of a fork."""
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _die_with_parent(server, signal.SIGKILL)
        _attempt(seat, line, turn)
        status = 0
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        if not turn.is_over:
            failed = classify_failure(error)
            with suppress(OSError):
                line.tell({"failed": [failed.reason, failed.message]})
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _attempt(seat: RankAssignment, line: JsonConnection, turn: _Turn) -> None:
    if seat.visible_devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = seat.visible_devices
    device = torch.device(seat.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = _store_of_rank_0(seat)
    line.tell({"port": store.port if store is not None else 0})
    message = line.hear()
    if message is None:
        return
    if seat.world_size > 1:
        meeting = Rendezvous(**message["meet"])
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store or TCPStore(meeting.host, meeting.port, timeout=_COLLECTIVE),
            rank=seat.rank,
            world_size=seat.world_size,
            timeout=_COLLECTIVE,
        )
    line.tell({"ready": True})
    message = line.hear()
    if message is None:
        return

    def hand_back() -> None:
        if dist.is_initialized():
            dist.destroy_process_group()
        _give_memory_back(device)
        line.tell({"trained": True})
        line.close()
        turn.hand_back()

    settings, brief = _order(message)
    place = DeviceContext(
        rank=seat.rank,
        world_size=seat.world_size,
        device=device,
        threads=brief.cpus_per_worker,
        gpu_share=brief.gpus_per_worker or 1.0,
    )
    run_rank(
        settings,
        brief,
        place=place,
        local_rank=seat.local_rank,
        meet=_meet if seat.world_size > 1 else _nobody_else,
        on_trained=hand_back,
    )
    if not turn.is_over:
        # Other ranks have nothing to deliver, nor has an attempt that was replaced.
        hand_back()


def _give_memory_back(device: torch.device) -> None:
    """All of it but the driver's own: the next attempt has the device now."""
    if device.type == "cuda":
        gc.collect()  # whatever still holds a tensor of the run
        torch.cuda.empty_cache()


def _order(message: dict[str, Any]) -> tuple[AttemptSettings, AttemptConfig]:
    return AttemptSettings.of_json(message["run"]), AttemptConfig.model_validate(message["brief"])


def _store_of_rank_0(seat: RankAssignment) -> TCPStore | None:
    if seat.rank > 0 or seat.world_size == 1:
        return None
    # Port 0: one that is free, which a port chosen before may no longer be.
    return TCPStore(seat.host, 0, is_master=True, wait_for_workers=False, timeout=_COLLECTIVE)


def _meet() -> None:
    dist.barrier()


def _nobody_else() -> None: ...


def _die_with_parent(pid: int, number: signal.Signals) -> None:
    """This process gets the signal when its parent, which is `pid`, ends, however that ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != pid:
        sys.exit(1)


if __name__ == "__main__":
    main()
