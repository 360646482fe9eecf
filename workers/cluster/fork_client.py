"""A rank's end of its node's fork server (workers.cluster.fork_server).

rank ──{"fork"}──► server ──fork──► fork     One line of JSON each, in turn, on a connection
rank ◄──{"port"}── fork                      for each fork. It is the fork's own until its
rank ──{"meet"}──► fork (joins the group)    training is over, and the fork is killed where
rank ◄──{"ready"}── fork                     the rank closes it before. On rank 0 a fork may
rank ──{"run"}──► fork                       live on for a while, to deliver.
rank ◄──{"trained"} or {"failed"}── fork
rank ◄──{"over"}── server

rank ──{"drain"}──► server ──{"drained"}──► rank, once every fork has delivered
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from service.specs.protocol import AttemptConfig
from service.states import Reason
from workers.cluster.attempt_outcome import AttemptFailed
from workers.cluster.process_settings import AttemptSettings

# Until the server's socket is there; who starts it makes that first.
_APPEAR_SECONDS = 60.0
_LOOK_AGAIN_SECONDS = 0.02


@dataclass(frozen=True)
class RankAssignment:
    """Where a rank stands, in the group and on its node; `host` is its node's address.

    `visible_devices` is CUDA_VISIBLE_DEVICES as Ray set it for the rank; None where it did not.
    """

    rank: int
    local_rank: int
    world_size: int
    device: str
    host: str
    visible_devices: str | None = None


@dataclass(frozen=True)
class Rendezvous:
    """Where the ranks of an attempt find each other."""

    host: str
    port: int


class JsonConnection:
    """One side of a conversation: a line of JSON there, a line of JSON back."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def fileno(self) -> int:
        return self._connection.fileno()

    def tell(self, message: dict[str, Any]) -> None:
        """OSError where the other side is gone."""
        self._connection.sendall(json.dumps(message).encode() + b"\n")

    def hear(self) -> dict[str, Any] | None:
        """The next line; None where the other side is gone. Nothing is read ahead: forks go on."""
        letters = bytearray()
        while not letters.endswith(b"\n"):
            try:
                # What waits is looked at first, or each letter would be a call.
                waiting = self._connection.recv(1 << 16, socket.MSG_PEEK)
                end = waiting.find(b"\n") + 1 or len(waiting)
                letters += self._connection.recv(end)
            except ConnectionResetError:
                return None
            if not waiting:
                return None
        message: dict[str, Any] = json.loads(letters)
        return message

    def close(self) -> None:
        self._connection.close()


@contextmanager
def run_fork_server(runner_id: str) -> Iterator[None]:
    """A fork server of this runner on this node; ends with this process, however that ends."""
    folder = _folder(runner_id)
    folder.mkdir(mode=0o700)
    with ExitStack() as opened:
        opened.callback(shutil.rmtree, folder, ignore_errors=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "socket"))
            listener.listen()
            process = subprocess.Popen(  # noqa: S603 - our own module
                [
                    *(sys.executable, "-m", "workers.cluster.fork_server"),
                    *(str(os.getpid()), str(folder), str(listener.fileno())),
                ],
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                # Threads of numpy's would be lost in a fork; training does its sums in torch.
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            )
        opened.callback(process.wait)
        opened.callback(process.send_signal, signal.SIGTERM)
        yield


class ForkServerClient:
    """This node's fork server, for one rank. AttemptFailed from a fork that fails or dies."""

    def __init__(self, runner_id: str, *, is_first: bool, delivery_seconds: float) -> None:
        """`is_first` on this node: starts the server where the runner's own process has not.

        `delivery_seconds`: how long a fork may go on after its training.
        """
        self._path = _folder(runner_id) / "socket"
        self._delivery_seconds = delivery_seconds
        self._images: list[str] | None = None
        self._started = ExitStack()
        if is_first and not self._path.exists():
            self._started.enter_context(run_fork_server(runner_id))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Once everything is delivered."""
        with self._started:
            self._drain()

    def fork(self, seat: RankAssignment) -> "ForkedProcess":
        """A new process for the next attempt; close it where there is none."""
        line = JsonConnection(self._connect())
        _send(line, {"fork": asdict(seat), "images": self._images})
        return ForkedProcess(self, seat, line)

    def keep_images(self, brief: AttemptConfig, data_path: Path) -> None:
        """The next forks find this data set in their memory, if it is one that never changes."""
        self._images = [brief.spec.dataset, str(data_path), brief.spec.family]

    def _connect(self) -> socket.socket:
        deadline = time.monotonic() + _APPEAR_SECONDS
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self._path))
            except OSError as error:
                connection.close()
                is_due = isinstance(error, FileNotFoundError) and time.monotonic() < deadline
                if not is_due:
                    raise _server_died() from error
                time.sleep(_LOOK_AGAIN_SECONDS)
            else:
                return connection

    def _drain(self) -> None:
        try:
            connection = self._connect()
        except AttemptFailed:
            return
        with connection:
            connection.settimeout(self._delivery_seconds)
            line = JsonConnection(connection)
            try:
                line.tell({"drain": True})
                line.hear()
            except OSError:
                return


class ForkedProcess:
    def __init__(
        self, server: ForkServerClient, seat: RankAssignment, line: JsonConnection
    ) -> None:
        self._server = server
        self._seat = seat
        self._line = line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Its process is killed, unless its training is over."""
        self._line.close()

    def meeting_place(self) -> Rendezvous:
        """Where this fork waits for the others; of use on rank 0."""
        return Rendezvous(host=self._seat.host, port=self._expect("port"))

    def meet(self, meeting: Rendezvous) -> None:
        """Returns once this fork is in the attempt's process group."""
        _send(self._line, {"meet": asdict(meeting)})
        self._expect("ready")

    def begin(self, settings: AttemptSettings, brief: AttemptConfig) -> None:
        """Returns at once; `wait` for the end."""
        order = {"run": settings.to_json(), "brief": brief.model_dump(mode="json")}
        _send(self._line, order)
        self._server.keep_images(brief, settings.data_path)

    def wait(self) -> None:
        """Returns once the training is over; what is left to deliver is on its way."""
        self._expect("trained")
        self._expect("over")

    def _expect(self, name: str) -> Any:
        message = self._line.hear()
        if message is None:
            raise _server_died()
        if name in message:
            return message[name]
        if "failed" in message:
            reason, text = message["failed"]
            raise AttemptFailed(Reason(reason), text)
        rank = self._seat.rank
        if "over" in message:
            raise AttemptFailed(Reason.WORKER_DIED, f"rank {rank} {_died_of(message['over'])}")
        raise AttemptFailed(Reason.INTERNAL, f"rank {rank} said {message}, expected {name}")


def _folder(runner_id: str) -> Path:
    """Short, for a socket's path ends at 107 bytes; for this user alone."""
    return Path(tempfile.gettempdir()) / f"resnetd-{runner_id}"


def _send(line: JsonConnection, message: dict[str, Any]) -> None:
    try:
        line.tell(message)
    except OSError as error:
        raise _server_died() from error


def _server_died() -> AttemptFailed:
    return AttemptFailed(Reason.WORKER_DIED, "the fork server has died")


def _died_of(status: int) -> str:
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"
