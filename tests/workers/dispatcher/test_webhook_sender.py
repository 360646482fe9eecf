"""The webhook sender, with a real receiver and a real connection."""

import ipaddress
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from service.notifications import webhooks
from service.states import DeliveryState, JobState
from service.storage.tables import DeliveryRow
from tests.support.core import Core
from tests.support.fake_api import eventually
from workers.dispatcher.webhook_sender import WebhookSender

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


class _Receiver(BaseHTTPRequestHandler):
    server: "_Server"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((dict(self.headers), body))
        self.send_response(self.server.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


class _Server(ThreadingHTTPServer):
    status = 204

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.received: list[tuple[dict[str, str], bytes]] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


@pytest.fixture
def receiver() -> Iterator[_Server]:
    server = _Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
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
        (delivery,) = webhooks.list_deliveries(session, webhook_id, limit=10)
    return delivery


def _sender(core: Core, *, allowed: Any = LOOPBACK) -> WebhookSender:
    return WebhookSender(core.database, allowed=allowed, now=core.clock)


def test_a_delivery_is_signed_and_has_the_name_as_its_host(core: Core, receiver: _Server) -> None:
    webhook_id = _ping(core, f"http://localhost:{receiver.port}/hook")
    assert _sender(core).send_next()
    ((headers, body),) = receiver.received
    assert headers["Host"] == f"localhost:{receiver.port}"
    with core.database.reading() as session:
        secret = webhooks.find_webhook(session, webhook_id).secret
    expected = webhooks.sign(secret, headers["webhook-id"], body, now=core.clock.now)
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
