"""A load balancer of TCP connections, as small as one can be that asks for health."""

import socket
import socketserver
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException

_CHECK_SECONDS = 0.05


class Balancer(socketserver.ThreadingTCPServer):
    """Gives each connection to the next healthy backend.

    `unhealthy`: ports that the last check refused. `num_refused`: connections without a backend.
    """

    daemon_threads = True

    def __init__(self, ports: Sequence[int]) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.unhealthy: set[int] = set()
        self.num_refused = 0
        self._ports = list(ports)
        self.stopping = threading.Event()

    def connect(self) -> socket.socket | None:
        for port in [port for port in self._ports if port not in self.unhealthy]:
            self._ports.remove(port)
            self._ports.append(port)
            with suppress(OSError):
                return socket.create_connection(("127.0.0.1", port))
        self.num_refused += 1
        return None

    def check(self) -> None:
        while not self.stopping.wait(_CHECK_SECONDS):
            for port in tuple(self._ports):
                (self.unhealthy.discard if _is_healthy(port) else self.unhealthy.add)(port)


class _Connection(socketserver.BaseRequestHandler):
    server: Balancer

    def handle(self) -> None:
        backend = self.server.connect()
        if backend is None:
            return
        with backend:
            sending = threading.Thread(target=_copy, args=(self.request, backend))
            sending.start()
            _copy(backend, self.request)
            sending.join()


def _is_healthy(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=5.0)
    try:
        connection.request("GET", "/v1/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextmanager
def balancing(ports: Sequence[int]) -> Iterator[Balancer]:
    with Balancer(ports) as balancer:
        threads = [
            threading.Thread(target=balancer.check),
            threading.Thread(target=balancer.serve_forever, args=(0.01,)),
        ]
        for thread in threads:
            thread.start()
        try:
            yield balancer
        finally:
            balancer.stopping.set()
            balancer.shutdown()
            for thread in threads:
                thread.join()
