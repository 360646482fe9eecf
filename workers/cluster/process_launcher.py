"""Launches a process for each rank of each attempt, forked from one that has imported torch.

    rank loop ◄── socket ──► launcher ◄── pipe ──► rank process      forked by multiprocessing's
                                                                     fork server
    Rendezvous  ◄─────────────────────────── waits for the other ranks (of use from rank 0)
    Rendezvous  ───────────────────────────► joins the attempt's process group
    Joined      ◄───────────────────────────
    RunAttempt  ───────────────────────────► trains
    Trained     ◄─────────────────────────── or AttemptFailed; the launcher sends ProcessExited

Importing torch takes seconds of CPU time, forking milliseconds. Ray's process of a rank has
threads and cannot be forked itself. The launcher forwards messages between the rank loop and its
process; it kills the process when the rank loop closes the connection, except that a process
whose training is over may continue to deliver. All processes end with the launcher's process.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, forkserver, get_context
from multiprocessing.connection import Client, Connection, Listener
from multiprocessing.context import AuthenticationError, ForkServerProcess
from types import TracebackType
from typing import Self, TypeVar

from service.specs.protocol import AttemptConfig
from service.states import Reason
from workers.cluster import socket_folder
from workers.cluster.attempt_outcome import AttemptFailed
from workers.cluster.oom_kills import read_oom_kills
from workers.cluster.process_settings import AttemptSettings, RunnerSettings

# Processes that may deliver on one node while another trains.
_MAX_DELIVERING = 4
# For another process of the runner to open the launcher's socket.
_CONNECT_SECONDS = 60.0
_CONNECT_RETRY_SECONDS = 0.02

T = TypeVar("T")

_context = get_context("forkserver")


@dataclass(frozen=True)
class RankPlacement:
    """A rank in its group and on its node; `host` is the node's address.

    `visible_devices`: CUDA_VISIBLE_DEVICES as Ray set it for the rank; None: not set.
    """

    rank: int
    local_rank: int
    world_size: int
    device: str
    host: str
    visible_devices: str | None = None


@dataclass(frozen=True)
class Rendezvous:
    """Where the processes of an attempt connect to form their process group."""

    host: str
    port: int


@dataclass(frozen=True)
class Joined: ...


@dataclass(frozen=True)
class RunAttempt:
    settings: AttemptSettings
    config: AttemptConfig


@dataclass(frozen=True)
class Trained: ...


@dataclass(frozen=True)
class ProcessExited:
    """`exitcode` as in multiprocessing: negative for a signal.

    `oom_kills`: processes that the kernel killed for their memory while this one ran.
    """

    exitcode: int | None
    oom_kills: int

    @property
    def reason(self) -> Reason:
        is_killed = self.exitcode == -signal.SIGKILL
        return Reason.OUT_OF_MEMORY if is_killed and self.oom_kills > 0 else Reason.WORKER_DIED


class ProcessLauncher:
    """Serves the ranks of one runner on this node. Only holders of `key` can connect.

    Leaving its context without an exception waits until every process has delivered, at most
    `delivery_seconds`; then all processes are killed.
    """

    def __init__(self, runner_id: str, *, key: str, delivery_seconds: float) -> None:
        self._address = _address_of(runner_id)
        self._key = key.encode()
        self._delivery_seconds = delivery_seconds
        self._processes: set[ForkServerProcess] = set()
        self._num_delivering = 0
        self._changed = threading.Condition()
        self._is_closed = False
        # numpy's threads would be lost in a fork; training computes in torch.
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        socket_folder.prepare()
        _context.set_forkserver_preload(["workers.cluster.preload"])
        forkserver.ensure_running()
        self._listener = Listener(self._address, family="AF_UNIX", authkey=self._key)
        self._thread = threading.Thread(target=self._accept, name="launcher", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, settings: RunnerSettings) -> Self:
        return cls(
            settings.runner_id, key=settings.token, delivery_seconds=settings.delivery_seconds
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: object, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        with self._changed:
            if error is None:
                self._changed.wait_for(lambda: self._num_delivering == 0, self._delivery_seconds)
            self._is_closed = True
            for process in self._processes:
                process.kill()
        # Closing a listener does not wake the thread that accepts; a connection does.
        with suppress(OSError, EOFError):
            Client(self._address, family="AF_UNIX", authkey=self._key).close()
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                rank = self._listener.accept()
            except (AuthenticationError, EOFError, OSError):
                continue
            threading.Thread(target=self._serve, args=(rank,), daemon=True).start()

    def _serve(self, rank: Connection) -> None:
        """Launches the rank's process and returns once it has exited."""
        with rank, suppress(EOFError, OSError):
            placement = rank.recv()
            with self._changed:
                self._changed.wait_for(lambda: self._num_delivering <= _MAX_DELIVERING)
            oom_kills = read_oom_kills()
            process, pipe = self._launch(placement)
            try:
                with pipe:
                    is_delivering = _forward(rank, pipe, process)
                if is_delivering:
                    self._count_delivering(1)
                    rank.close()
                    connection.wait([process.sentinel])
                    self._count_delivering(-1)
            finally:
                self._reap(process, rank, oom_kills)

    def _launch(self, placement: RankPlacement) -> tuple[ForkServerProcess, Connection]:
        ours, theirs = _context.Pipe()
        process = _context.Process(target=_run, args=(theirs, placement), daemon=True)
        with self._changed, theirs, _hidden_main_file():
            process.start()
            self._processes.add(process)
        return process, ours

    def _reap(self, process: ForkServerProcess, rank: Connection, oom_kills_before: int) -> None:
        connection.wait([process.sentinel])
        with self._changed:  # starting a process polls all others
            process.join()
            self._processes.discard(process)
        if not rank.closed:
            oom_kills = read_oom_kills() - oom_kills_before
            rank.send(ProcessExited(process.exitcode, oom_kills))

    def _count_delivering(self, change: int) -> None:
        with self._changed:
            self._num_delivering += change
            self._changed.notify_all()


class RankProcess:
    """The rank loop's end of its process. AttemptFailed where the process fails or dies."""

    def __init__(self, runner_id: str, placement: RankPlacement, *, key: str) -> None:
        self._placement = placement
        self._connection = _connect(runner_id, key)
        self._send(placement)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Its process is killed, unless its training is over."""
        self._connection.close()

    def rendezvous(self) -> Rendezvous:
        """Where this process waits for the others; only rank 0's is of use."""
        return self._receive(Rendezvous)

    def join_group(self, rendezvous: Rendezvous) -> None:
        """Returns once the process is in the attempt's process group."""
        self._send(rendezvous)
        self._receive(Joined)

    def begin_training(self, settings: AttemptSettings, config: AttemptConfig) -> None:
        """Returns at once."""
        self._send(RunAttempt(settings, config))

    def wait_until_trained(self) -> None:
        """Returns once the training is over; the process may still deliver results."""
        self._receive(Trained)

    def _send(self, message: object) -> None:
        try:
            self._connection.send(message)
        except OSError as error:
            raise _launcher_died() from error

    def _receive(self, kind: type[T]) -> T:
        try:
            message = self._connection.recv()
        except (EOFError, OSError) as error:
            raise _launcher_died() from error
        if isinstance(message, kind):
            return message
        if isinstance(message, AttemptFailed):
            raise message
        rank = self._placement.rank
        if isinstance(message, ProcessExited):
            raise AttemptFailed(message.reason, f"rank {rank} {_describe_exit(message)}")
        raise AttemptFailed(Reason.INTERNAL, f"rank {rank} sent {message}, not {kind.__name__}")


def _run(pipe: Connection, placement: RankPlacement) -> None:
    """The target of a rank's process. The launcher's own process need not import torch."""
    from workers.cluster import rank_process  # noqa: PLC0415

    rank_process.main(pipe, placement)


def _forward(rank: Connection, pipe: Connection, process: ForkServerProcess) -> bool:
    """Forwards messages until the training is over or its process exits.

    Whether the process still delivers.
    """
    while True:
        ready = connection.wait([rank, pipe, process.sentinel])
        if pipe in ready:
            try:
                message = pipe.recv()
            except EOFError:
                return False
            rank.send(message)
            if isinstance(message, Trained):
                return True
        elif process.sentinel in ready:
            return False
        else:
            try:
                pipe.send(rank.recv())
            except (EOFError, OSError):
                process.kill()
                return False


@contextmanager
def _hidden_main_file() -> Iterator[None]:
    """Forked processes import the parent's main script; a Ray worker's is Ray's own."""
    main = vars(sys.modules["__main__"])
    file = main.pop("__file__", None)
    try:
        yield
    finally:
        if file is not None:
            main["__file__"] = file


def _connect(runner_id: str, key: str) -> Connection:
    deadline = time.monotonic() + _CONNECT_SECONDS
    while True:
        try:
            return Client(_address_of(runner_id), family="AF_UNIX", authkey=key.encode())
        except (OSError, EOFError) as error:
            if time.monotonic() >= deadline:
                raise _launcher_died() from error
            time.sleep(_CONNECT_RETRY_SECONDS)


def _address_of(runner_id: str) -> str:
    """A Linux abstract socket: no file remains, however the launcher ends."""
    return f"\0resnetd-{runner_id}"


def _launcher_died() -> AttemptFailed:
    return AttemptFailed(Reason.WORKER_DIED, "the process launcher has died")


def _describe_exit(exited: ProcessExited) -> str:
    if exited.reason is Reason.OUT_OF_MEMORY:
        return (
            "was killed by the kernel because memory was used up; "
            "a smaller batch size, or fewer loader processes, need less"
        )
    if exited.exitcode is not None and exited.exitcode < 0:
        return f"was killed by {signal.Signals(-exited.exitcode).name}"
    return f"exited with status {exited.exitcode}"
