"""What a delivery sends: a signed request, a message of a chat, or an e-mail.

Requests are signed as in Standard Webhooks: HMAC-SHA256 over id, timestamp and body.
"""

import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from service.states import AlertChannel
from service.storage.tables import AlertRow, DeliveryRow, JobRow, WebhookRow

_SECRET_PREFIX = "whsec_"  # noqa: S105 - a prefix
_GONE = 410
# Discord refuses longer ones.
_MAX_CHAT_LENGTH = 1900


@dataclass(frozen=True)
class HttpMessage:
    """A POST request."""

    delivery_id: str
    url: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class MailMessage:
    """An e-mail in plain text."""

    delivery_id: str
    to: str
    subject: str
    text: str


@dataclass(frozen=True)
class Outcome:
    """`status`: of the response, of HTTP or SMTP. `error`: why there was none, or what it says.

    `is_refused`: no repetition can succeed.
    """

    status: int | None = None
    error: str | None = None
    is_refused: bool = False

    @property
    def is_delivered(self) -> bool:
        return self.status is not None and 200 <= self.status < 300  # noqa: PLR2004 - HTTP, SMTP

    @property
    def is_final(self) -> bool:
        return self.is_refused or self.status == _GONE


def make_secret() -> str:
    """A new key for signatures."""
    return _SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def make_message(
    delivery: DeliveryRow,
    sender: WebhookRow | AlertRow,
    *,
    public_url: str | None,
    now: datetime,
) -> HttpMessage | MailMessage:
    payload = delivery.payload
    if isinstance(sender, WebhookRow):
        return _make_signed(delivery.id, sender.url, sender.secret, payload, now=now)
    if sender.channel is AlertChannel.WEBHOOK:
        return _make_signed(delivery.id, sender.target, sender.secret, payload, now=now)
    title, lines = str(payload["data"]["title"]), _list_lines(payload["data"], public_url)
    if sender.channel is AlertChannel.EMAIL:
        return MailMessage(delivery.id, sender.target, title, "\n".join([title, *lines]))
    body: dict[str, Any]
    if sender.channel is AlertChannel.SLACK:
        # Only these three have a meaning in Slack's texts; mentions begin with `<`.
        escaped = [
            line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            for line in (title, *lines)
        ]
        body = {"text": "\n".join(escaped)}
    else:
        text = "\n".join([title, *lines])[:_MAX_CHAT_LENGTH]
        body = {"content": text, "allowed_mentions": {"parse": []}}
    headers = {"Content-Type": "application/json"}
    return HttpMessage(delivery.id, sender.target, headers, json.dumps(body).encode())


def describe_job(job: JobRow) -> dict[str, Any]:
    """For programs."""
    return {
        "id": job.id,
        "name": job.name,
        "kind": job.kind,
        "user": job.user,
        "state": job.state,
        "reason": job.reason,
        "message": job.message,
        "result": job.result,
    }


def sign(secret: str, delivery_id: str, body: bytes, *, now: datetime) -> dict[str, str]:
    """Headers with which a receiver verifies the sender and the time."""
    key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX))
    timestamp = str(int(now.timestamp()))
    signed = b".".join((delivery_id.encode(), timestamp.encode(), body))
    signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {
        "Content-Type": "application/json",
        "webhook-id": delivery_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }


def _make_signed(
    delivery_id: str, url: str, secret: str, payload: dict[str, Any], *, now: datetime
) -> HttpMessage:
    body = json.dumps(payload, separators=(",", ":")).encode()
    return HttpMessage(delivery_id, url, sign(secret, delivery_id, body, now=now), body)


def _list_lines(data: dict[str, Any], public_url: str | None) -> list[str]:
    """Of a message below its title."""
    found = [data["text"]] if data["text"] else []
    if public_url is not None:
        found.append(f"{public_url}{data['path']}")
    return found
