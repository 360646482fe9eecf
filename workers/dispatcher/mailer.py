"""Sends e-mails by the operator's SMTP server."""

import smtplib
import ssl
from email.message import EmailMessage
from email.utils import formatdate
from typing import Self
from urllib.parse import unquote, urlsplit

from service.notifications.messages import MailMessage, Outcome
from service.settings import Settings

_PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}
_PERMANENT = range(500, 600)


class Mailer:
    """`url`: as RESNETD_SMTP_URL; `sender`: the address that e-mails are from."""

    @classmethod
    def of(cls, settings: Settings) -> Self | None:
        """None without an SMTP server."""
        if settings.smtp_url is None:
            return None
        return cls(settings.smtp_url.get_secret_value(), sender=settings.smtp_from)

    def __init__(self, url: str, *, sender: str) -> None:
        parts = urlsplit(url)
        self._scheme = parts.scheme
        self._host = parts.hostname or ""
        self._port = parts.port or _PORTS[parts.scheme]
        self._user = unquote(parts.username or "")
        self._password = unquote(parts.password or "")
        self._sender = sender
        self._certificates = ssl.create_default_context()

    def send(self, mail: MailMessage, *, timeout_seconds: float) -> Outcome:
        """`timeout_seconds`: of each step. Raises OSError where the server does not respond."""
        message = EmailMessage()
        message["From"] = self._sender
        message["To"] = mail.to
        message["Subject"] = mail.subject
        message["Date"] = formatdate()
        # Equal in each try, so that a mailbox can leave out a second one.
        message["Message-ID"] = f"<{mail.delivery_id}@resnetd>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail.text)
        try:
            with self._connect(timeout_seconds) as server:
                server.send_message(message)
        except smtplib.SMTPRecipientsRefused as error:
            ((status, text),) = error.recipients.values()
            return _make_outcome(status, text, is_refused=status in _PERMANENT)
        except smtplib.SMTPAuthenticationError as error:
            # The operator may correct the password.
            return _make_outcome(error.smtp_code, error.smtp_error, is_refused=False)
        except smtplib.SMTPResponseException as error:
            is_refused = error.smtp_code in _PERMANENT
            return _make_outcome(error.smtp_code, error.smtp_error, is_refused=is_refused)
        return Outcome(status=250)

    def _connect(self, timeout_seconds: float) -> smtplib.SMTP:
        server: smtplib.SMTP
        if self._scheme == "smtps":
            server = smtplib.SMTP_SSL(
                self._host, self._port, timeout=timeout_seconds, context=self._certificates
            )
        else:
            server = smtplib.SMTP(self._host, self._port, timeout=timeout_seconds)
        try:
            if self._scheme == "smtp+starttls":
                server.starttls(context=self._certificates)
            if self._user:
                server.login(self._user, self._password)
        except BaseException:
            server.close()
            raise
        return server


def _make_outcome(status: int, text: bytes | str, *, is_refused: bool) -> Outcome:
    said = text.decode(errors="replace") if isinstance(text, bytes) else text
    return Outcome(status, f"SMTP {status} {said}"[:500], is_refused=is_refused)
