"""E-mails of alerts, with a real SMTP server."""

import asyncio
import email
import email.policy
import threading
from collections.abc import Iterator

import pytest
from aiosmtpd.smtp import SMTP, Envelope, Session

from service.notifications import alerts, deliveries
from service.states import AlertCondition, DeliveryState
from service.storage.tables import DeliveryRow
from tests.support.alerts import add_alert
from tests.support.core import Core
from workers.dispatcher.delivery_sender import DeliverySender
from workers.dispatcher.mailer import Mailer


class _Server:
    """Keeps what it receives; `answer` is its response to an address."""

    def __init__(self) -> None:
        self.port = 0
        self.answer = "250 OK"
        self.received: list[Envelope] = []

    async def handle_RCPT(  # noqa: N802 - of aiosmtpd
        self, _: SMTP, __: Session, envelope: Envelope, address: str, ___: list[str]
    ) -> str:
        if self.answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.answer

    async def handle_DATA(  # noqa: N802 - of aiosmtpd
        self, _: SMTP, __: Session, envelope: Envelope
    ) -> str:
        self.received.append(envelope)
        return "250 OK"


@pytest.fixture
def server() -> Iterator[_Server]:
    handler, loop = _Server(), asyncio.new_event_loop()

    async def listen() -> asyncio.Server:
        return await loop.create_server(lambda: SMTP(handler, loop=loop), "127.0.0.1", 0)

    listening = loop.run_until_complete(listen())
    handler.port = listening.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield handler
    listening.close()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def _send(core: Core, server: _Server, *, url: str = "smtp://127.0.0.1:{}") -> DeliveryRow:
    """The log entry of a test delivery after a try."""
    alert_id = add_alert(core, AlertCondition.FAILED, channel="email", target="ann@example.org")
    with core.database.transaction() as session:
        alerts.enqueue_test(session, alert_id, now=core.clock.now)
    mailer = Mailer(url.format(server.port), sender="resnetd@example.org")
    sender = DeliverySender(core.database, allowed=(), now=core.clock, mailer=mailer)
    assert sender.send_next()
    with core.database.reading() as session:
        alert = alerts.find_alert(session, alert_id)
        (delivery,) = deliveries.list_deliveries(session, alert, limit=10)
        return delivery


def test_an_e_mail_arrives_with_an_id_that_each_try_repeats(core: Core, server: _Server) -> None:
    delivery = _send(core, server)
    assert (delivery.state, delivery.status) == (DeliveryState.DELIVERED, 250)
    (envelope,) = server.received
    assert isinstance(envelope.content, bytes)
    message = email.message_from_bytes(envelope.content, policy=email.policy.default)
    assert (envelope.mail_from, envelope.rcpt_tos) == ("resnetd@example.org", ["ann@example.org"])
    assert (message["Subject"], message["To"]) == ("Test of an alert", "ann@example.org")
    assert message["Message-ID"] == f"<{delivery.id}@resnetd>"
    assert "This channel works." in message.get_content()


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ("550 no such mailbox", DeliveryState.FAILED),
        ("451 try again later", DeliveryState.PENDING),
    ],
)
def test_a_permanent_refusal_of_the_address_ends_the_delivery(
    core: Core, server: _Server, answer: str, state: DeliveryState
) -> None:
    server.answer = answer
    delivery = _send(core, server)
    assert (delivery.state, delivery.error) == (state, f"SMTP {answer}")


def test_a_server_without_the_encryption_that_the_setting_names_gets_no_e_mail(
    core: Core, server: _Server
) -> None:
    delivery = _send(core, server, url="smtp+starttls://user:password@127.0.0.1:{}")
    assert delivery.state is DeliveryState.PENDING
    assert "STARTTLS" in (delivery.error or "")
    assert server.received == []


def test_a_dispatcher_without_a_server_says_so(core: Core) -> None:
    alert_id = add_alert(core, AlertCondition.FAILED, channel="email", target="ann@example.org")
    with core.database.transaction() as session:
        alerts.enqueue_test(session, alert_id, now=core.clock.now)
    assert DeliverySender(core.database, allowed=(), now=core.clock).send_next()
    with core.database.reading() as session:
        alert = alerts.find_alert(session, alert_id)
        (delivery,) = deliveries.list_deliveries(session, alert, limit=10)
    assert "RESNETD_SMTP_URL" in (delivery.error or "")
