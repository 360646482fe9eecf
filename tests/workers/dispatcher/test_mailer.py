"""E-mails of alerts, with a real SMTP server."""

import asyncio
import email
import email.policy
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

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
    with _serving() as running:
        yield running


@contextmanager
def _serving(encryption: ssl.SSLContext | None = None, **options: Any) -> Iterator[_Server]:
    """`encryption`: from the first byte on; `options`: of aiosmtpd."""
    handler, loop = _Server(), asyncio.new_event_loop()
    sessions: list[SMTP] = []

    def accept() -> SMTP:
        sessions.append(SMTP(handler, loop=loop, **options))
        return sessions[-1]

    async def listen() -> asyncio.Server:
        return await loop.create_server(accept, "127.0.0.1", 0, ssl=encryption)

    async def close_connections() -> None:
        for session in sessions:
            if isinstance(session.transport, asyncio.Transport):
                session.transport.abort()
        # Of TLS, the connection below is closed after its own, each in a callback.
        for _ in range(3):
            await asyncio.sleep(0)

    listening = loop.run_until_complete(listen())
    handler.port = listening.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield handler
    listening.close()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.run_until_complete(close_connections())
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


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of 127.0.0.1, signed by itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    path = tmp_path_factory.mktemp("certificate") / "server.pem"
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(pem)
    )
    return path


def _authenticate(*arguments: Any) -> AuthResult:
    is_right = arguments[-1] == LoginPassword(b"ann", b"p@ss")
    return AuthResult(success=is_right, handled=False)


@contextmanager
def _encrypting(scheme: str, certificate: Path) -> Iterator[_Server]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    # aiosmtpd counts only STARTTLS as TLS, which it needs by default before it reads a password.
    serving = (
        _serving(context, authenticator=_authenticate, auth_require_tls=False)
        if scheme == "smtps"
        else _serving(tls_context=context, authenticator=_authenticate, auth_required=True)
    )
    with serving as running:
        yield running


@pytest.mark.parametrize("scheme", ["smtp+starttls", "smtps"])
def test_a_server_with_a_trusted_certificate_gets_the_password_and_the_e_mail(
    core: Core, certificate: Path, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with _encrypting(scheme, certificate) as server:
        wrong = _send(core, server, url=scheme + "://ann:wrong@127.0.0.1:{}")
        assert (wrong.state, wrong.status) == (DeliveryState.PENDING, 535)
        delivery = _send(core, server, url=scheme + "://ann:p%40ss@127.0.0.1:{}")
    assert (delivery.state, delivery.status) == (DeliveryState.DELIVERED, 250)
    assert [envelope.rcpt_tos for envelope in server.received] == [["ann@example.org"]]


@pytest.mark.parametrize("scheme", ["smtp+starttls", "smtps"])
def test_a_server_with_an_unknown_certificate_gets_nothing(
    core: Core, certificate: Path, scheme: str
) -> None:
    with _encrypting(scheme, certificate) as server:
        delivery = _send(core, server, url=scheme + "://ann:p%40ss@127.0.0.1:{}")
    assert delivery.state is DeliveryState.PENDING
    assert "certificate verify failed" in (delivery.error or "")
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
