"""Forks a process for each attempt from one that has imported torch and done nothing else.

Importing torch takes seconds of CPU time, forking milliseconds. A rank's own process, which Ray
made, has threads and cannot be forked; the server is a process without any. A fork has the
imports in common with its elders and nothing else: its random numbers, threads, device memory
and open files are its own, and end with it.

    rank ──{"fork"}──► server ──fork──► fork     One line of JSON each, in turn. A fork has the
    rank ◄──{"port"}── fork                      pipes to itself until its training is over; then
    rank ──{"meet"}──► fork (joins the group)    it closes them, and the server goes on. On rank 0
    rank ◄──{"ready"}── fork                     it may live on for a while, to deliver.
    rank ──{"run"}──► fork
    rank ◄──{"trained"} or {"failed"}── fork
    rank ◄──{"over"}── server
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from service.networks import Family
from service.reports import AttemptBrief
from service.states import Reason
from workers.cluster.attempt import AttemptFailed, AttemptSettings, failure_of, run_rank
from workers.training import warmup
from workers.training.loop import Place

_PR_SET_PDEATHSIG = 1
# Of a collective: a hung one must become a failure. Torch's 30 minutes are a third of a short run.
_COLLECTIVE = timedelta(seconds=600)
# So many may still deliver while another trains.
_MAX_DELIVERING = 4
_REAP_SECONDS = 0.1


@dataclass(frozen=True)
class Seat:
    """Where a rank stands, in the group and on its node; `host` is its node's address."""

    rank: int
    local_rank: int
    world_size: int
    device: str
    host: str


@dataclass(frozen=True)
class Meeting:
    """Where the ranks of an attempt find each other."""

    host: str
    port: int


class ForkServer:
    """The rank's end. AttemptFailed from a fork that fails or dies, with the reason."""

    def __init__(self, delivery_seconds: float) -> None:
        """`delivery_seconds`: how long a fork may go on after its training."""
        self._delivery_seconds = delivery_seconds
        self._images: list[str] | None = None
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "workers.cluster.fork_server", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Threads of numpy's would be lost in a fork; training does its sums in torch.
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Once everything is delivered; then nothing of it is left."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(self._delivery_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def fork(self, seat: Seat) -> "Fork":
        """A new process for the next attempt; there must be none before it."""
        self.tell({"fork": asdict(seat), "images": self._images})
        return Fork(self, seat)

    def keep_images(self, dataset: str, data_path: Path, family: Family) -> None:
        """The next forks find this data set in their memory, if it is one that never changes."""
        self._images = [dataset, str(data_path), family]

    def tell(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise AttemptFailed(Reason.WORKER_DIED, "the fork server has died") from error

    def hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AttemptFailed(Reason.WORKER_DIED, "the fork server has died")
        message: dict[str, Any] = json.loads(line)
        return message


class Fork:
    def __init__(self, server: ForkServer, seat: Seat) -> None:
        self._server = server
        self._seat = seat

    def meeting_place(self) -> Meeting:
        """Where this fork waits for the others; of use on rank 0."""
        return Meeting(host=self._seat.host, port=self._expect("port"))

    def meet(self, meeting: Meeting) -> None:
        """Returns once this fork is in the attempt's process group."""
        self._server.tell({"meet": asdict(meeting)})
        self._expect("ready")

    def begin(self, settings: AttemptSettings, brief: AttemptBrief) -> None:
        """Returns at once; `wait` for the end."""
        self._server.tell({"run": settings.to_json(), "brief": brief.model_dump(mode="json")})
        self._server.keep_images(brief.spec.dataset, settings.data_path, brief.spec.family)

    def wait(self) -> None:
        """Returns once the training is over; what is left to deliver is on its way."""
        self._expect("trained")
        self._expect("over")

    def _expect(self, name: str) -> Any:
        message = self._server.hear()
        if name in message:
            return message[name]
        if "failed" in message:
            reason, text = message["failed"]
            raise AttemptFailed(Reason(reason), text)
        rank = self._seat.rank
        if "over" in message:
            raise AttemptFailed(Reason.WORKER_DIED, f"rank {rank} {_died_of(message['over'])}")
        raise AttemptFailed(Reason.INTERNAL, f"rank {rank} said {message}, expected {name}")


def main() -> None:
    _die_with_parent(int(sys.argv[1]))
    # What a training prints is no answer.
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # A pool of threads would be lost in a fork, and who waits for it waits for ever.
    torch.set_num_threads(1)
    warmup.import_all()
    channel = _Channel(sys.stdin.fileno(), answers)
    server = os.getpid()
    delivering = _Delivering()
    while (message := channel.hear()) is not None:
        if message["images"] is not None:
            dataset, data_path, family = message["images"]
            warmup.read_images(dataset, Path(data_path), family=Family(family))
        turn = _Turn()
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _die_with_parent(server)
            _run_fork(Seat(**message["fork"]), channel, turn)
        status = 0
        if turn.wait_for_its_end():
            delivering.add(pid)
            delivering.wait(at_most=_MAX_DELIVERING)
        else:
            _, status = os.waitpid(pid, 0)
        channel.tell({"over": os.waitstatus_to_exitcode(status)})
    delivering.wait(at_most=0)


class _Delivering:
    """Forks that live on after their training; none stays behind as a zombie."""

    def __init__(self) -> None:
        self._pids: set[int] = set()
        signal.signal(signal.SIGCHLD, self._reap)

    def add(self, pid: int) -> None:
        self._pids.add(pid)
        self._reap()  # it may have ended before it was added

    def wait(self, *, at_most: int) -> None:
        """Until no more than so many are left."""
        while len(self._pids) > at_most:
            time.sleep(_REAP_SECONDS)
            self._reap()

    def _reap(self, *_: object) -> None:
        for pid in tuple(self._pids):
            with suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            self._pids.discard(pid)


class _Turn:
    """Whose turn on the pipes it is: the fork's, until it hands them back or ends."""

    def __init__(self) -> None:
        self._ours, self._its = os.pipe()
        self.is_over = False

    def wait_for_its_end(self) -> bool:
        """In the server: whether the fork has handed the pipes back and lives on."""
        os.close(self._its)
        word = os.read(self._ours, 1)
        os.close(self._ours)
        return bool(word)

    def hand_back(self) -> None:
        """In the fork."""
        self.is_over = True
        os.write(self._its, b".")
        os.close(self._its)


class _Channel:
    def __init__(self, inbox: int, outbox: int) -> None:
        self._inbox, self._outbox = inbox, outbox

    def tell(self, message: dict[str, Any]) -> None:
        os.write(self._outbox, json.dumps(message).encode() + b"\n")

    def hear(self) -> dict[str, Any] | None:
        """The next line; None where the rank is gone. Nothing is read ahead: forks go on here."""
        letters = bytearray()
        while not letters.endswith(b"\n"):
            read = os.read(self._inbox, 1 << 16)
            if not read:
                return None
            letters += read
        message: dict[str, Any] = json.loads(letters)
        return message

    def close(self) -> None:
        os.close(self._inbox)
        os.close(self._outbox)


def _run_fork(seat: Seat, channel: _Channel, turn: _Turn) -> None:
    """The life of a fork; never returns."""
    status = 1
    try:
        _attempt(seat, channel, turn)
        status = 0
    except Exception as error:  # noqa: BLE001 - whatever it is, the rank must hear of it
        traceback.print_exc()
        if not turn.is_over:
            failed = failure_of(error)
            channel.tell({"failed": [failed.reason, failed.message]})
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _attempt(seat: Seat, channel: _Channel, turn: _Turn) -> None:
    device = torch.device(seat.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = _store_of_rank_0(seat)
    channel.tell({"port": store.port if store is not None else 0})
    message = channel.hear()
    if message is None:
        return
    if seat.world_size > 1:
        meeting = Meeting(**message["meet"])
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store or TCPStore(meeting.host, meeting.port, timeout=_COLLECTIVE),
            rank=seat.rank,
            world_size=seat.world_size,
            timeout=_COLLECTIVE,
        )
    channel.tell({"ready": True})
    message = channel.hear()
    if message is None:
        return

    def hand_back() -> None:
        if dist.is_initialized():
            dist.destroy_process_group()
        torch.cuda.empty_cache()
        channel.tell({"trained": True})
        channel.close()
        turn.hand_back()

    brief = AttemptBrief.model_validate(message["brief"])
    run_rank(
        AttemptSettings.of_json(message["run"]),
        brief,
        place=Place(
            rank=seat.rank,
            world_size=seat.world_size,
            device=device,
            threads=brief.cpus_per_worker,
        ),
        local_rank=seat.local_rank,
        meet=_meet if seat.world_size > 1 else _nobody_else,
        on_trained=hand_back,
    )
    if not turn.is_over:
        # Other ranks have nothing to deliver, nor has an attempt that was replaced.
        hand_back()


def _store_of_rank_0(seat: Seat) -> TCPStore | None:
    if seat.rank > 0 or seat.world_size == 1:
        return None
    # Port 0: one that is free, which a port chosen before may no longer be.
    return TCPStore(seat.host, 0, is_master=True, wait_for_workers=False, timeout=_COLLECTIVE)


def _meet() -> None:
    dist.barrier()


def _nobody_else() -> None: ...


def _die_with_parent(pid: int) -> None:
    """This process is killed when its parent, which is `pid`, ends, however that ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != pid:
        os._exit(1)


def _died_of(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


if __name__ == "__main__":
    main()
