"""The sender of deliveries, with a real receiver and a real connection."""

import ipaddress
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from service.notifications import deliveries, messages, webhooks
from service.states import DeliveryState, JobState
from service.storage.tables import DeliveryRow
from tests.support.core import Core
from tests.support.fake_api import eventually
from workers.dispatcher.delivery_sender import DeliverySender

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


class _Receiver(BaseHTTPRequestHandler):
    server: "_Server"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((dict(self.headers), body))
        if self.path == "/slow":
            self._drip()
            return
        self.send_response(self.server.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _drip(self) -> None:
        """Sends a byte of a response every 20 ms, until the sender or the test ends it."""
        with suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not self.server.released.wait(0.02):
                self.wfile.write(b"x")

    def log_message(self, *_: Any) -> None: ...


class _Server(ThreadingHTTPServer):
    status = 204

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.received: list[tuple[dict[str, str], bytes]] = []
        self.released = threading.Event()

    @property
    def port(self) -> int:
        return int(self.server_address[1])


@pytest.fixture
def receiver() -> Iterator[_Server]:
    server = _Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


def _ping(core: Core, url: str) -> str:
    with core.database.transaction() as session:
        states = (JobState.SUCCEEDED,)
        webhook_id = webhooks.add_webhook(session, url, states, user="ann", now=core.clock.now).id
        webhooks.enqueue_ping(session, webhook_id, now=core.clock.now)
    return webhook_id


def _read_delivery(core: Core, webhook_id: str) -> DeliveryRow:
    with core.database.reading() as session:
        webhook = webhooks.find_webhook(session, webhook_id)
        (delivery,) = deliveries.list_deliveries(session, webhook, limit=10)
    return delivery


def _sender(
    core: Core, *, allowed: Any = LOOPBACK, deadline_seconds: float = 10.0
) -> DeliverySender:
    return DeliverySender(
        core.database, allowed=allowed, now=core.clock, deadline_seconds=deadline_seconds
    )


@contextmanager
def _running(sender: DeliverySender) -> Iterator[None]:
    stopping = threading.Event()
    thread = threading.Thread(target=sender.run, args=(stopping,))
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def test_a_receiver_that_responds_byte_by_byte_has_a_deadline(
    core: Core, receiver: _Server
) -> None:
    webhook_id = _ping(core, f"http://127.0.0.1:{receiver.port}/slow")
    assert _sender(core, deadline_seconds=0.3).send_next()
    assert len(receiver.received) == 1
    assert _read_delivery(core, webhook_id).error == "not delivered within 0.3 seconds"


def test_a_name_server_that_does_not_answer_has_a_deadline(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the name server is replaced."""
    answered = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [answered.wait(60.0)])
    webhook_id = _ping(core, "http://example.org/hook")
    try:
        assert _sender(core, deadline_seconds=0.2).send_next()
    finally:
        answered.set()
    assert _read_delivery(core, webhook_id).error == "not delivered within 0.2 seconds"


def test_a_slow_receiver_delays_neither_others_nor_the_end(
    core: Core, receiver: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.dispatcher.delivery_sender._STOP_SECONDS", 0.1)
    url = f"http://127.0.0.1:{receiver.port}"
    slow_ids = [_ping(core, f"{url}/slow") for _ in range(3)]
    webhook_id = _ping(core, f"{url}/hook")
    sender = _sender(core, deadline_seconds=120.0)
    with _running(sender):
        eventually(lambda: _read_delivery(core, webhook_id).state is DeliveryState.DELIVERED)
    # It has stopped; these are sent again by the next sender.
    for slow_id in slow_ids:
        assert _read_delivery(core, slow_id).state is DeliveryState.PENDING
    receiver.released.set()
    for thread in sender._senders:
        thread.join()


def test_a_url_that_no_library_accepts_is_given_up(core: Core) -> None:
    """Webhooks of earlier versions were not checked."""
    webhook_id = _ping(core, "http://a..b/hook")
    sender = _sender(core)
    for _ in range(deliveries.MAX_TRIES):
        assert sender.send_next()
        core.clock.advance(7200.0)
    assert not sender.send_next()
    assert _read_delivery(core, webhook_id).state is DeliveryState.FAILED


def test_a_delivery_is_signed_and_has_the_name_as_its_host(core: Core, receiver: _Server) -> None:
    webhook_id = _ping(core, f"http://localhost:{receiver.port}/hook")
    assert _sender(core).send_next()
    ((headers, body),) = receiver.received
    assert headers["Host"] == f"localhost:{receiver.port}"
    with core.database.reading() as session:
        secret = webhooks.find_webhook(session, webhook_id).secret
    expected = messages.sign(secret, headers["webhook-id"], body, now=core.clock.now)
    assert headers["webhook-signature"] == expected["webhook-signature"]
    assert _read_delivery(core, webhook_id).state is DeliveryState.DELIVERED


def test_a_name_that_resolves_to_this_machine_is_not_called(core: Core, receiver: _Server) -> None:
    webhook_id = _ping(core, f"http://localhost:{receiver.port}/hook")
    assert _sender(core, allowed=()).send_next()
    assert receiver.received == []
    assert "not a public address" in (_read_delivery(core, webhook_id).error or "")


def test_a_redirect_is_not_followed(core: Core, receiver: _Server) -> None:
    receiver.status = 307
    webhook_id = _ping(core, f"http://127.0.0.1:{receiver.port}/hook")
    assert _sender(core).send_next()
    assert len(receiver.received) == 1
    delivery = _read_delivery(core, webhook_id)
    assert (delivery.state, delivery.status) == (DeliveryState.PENDING, 307)


def test_a_delivery_to_an_unavailable_receiver_is_retried(core: Core, receiver: _Server) -> None:
    port = receiver.port
    receiver.status = 503
    webhook_id = _ping(core, f"http://127.0.0.1:{port}/hook")
    sender = _sender(core)
    sender.send_next()
    assert not sender.send_next(), "not yet"
    receiver.status = 200
    core.clock.advance(10.0)
    assert sender.send_next()
    assert _read_delivery(core, webhook_id).tries == 2


def test_a_commit_wakes_a_running_sender(core: Core, receiver: _Server) -> None:
    stopping = threading.Event()
    thread = threading.Thread(target=_sender(core).run, args=(stopping,))
    thread.start()
    try:
        webhook_id = _ping(core, f"http://127.0.0.1:{receiver.port}/hook")
        eventually(lambda: _read_delivery(core, webhook_id).state is DeliveryState.DELIVERED)
    finally:
        stopping.set()
        thread.join()
