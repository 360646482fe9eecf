"""Webhooks: the client and the command."""

import resnetd
from tests.client.conftest import Command

# RFC 5737 reserves it for documentation; it is a public address all the same.
URL = "https://203.0.114.5/hook"


def test_the_secret_of_a_webhook_is_shown_once(command: Command) -> None:
    assert command("webhook", "add", URL, "--state", "failed") == 0
    secret = command.out.strip()
    assert secret.startswith("whsec_")
    assert "resnetd webhook ping" in command.err
    assert command("webhook", "list") == 0
    assert command.out.splitlines()[1].split()[1:] == [URL, "failed", "admin"]
    assert secret not in command.out


def test_a_test_delivery_is_listed(command: Command, client: resnetd.Client) -> None:
    webhook = client.webhooks.create(URL)
    assert set(webhook.states) == {"succeeded", "failed", "cancelled"}
    assert command("webhook", "ping", webhook.id) == 0
    assert command("webhook", "deliveries", webhook.id) == 0
    assert command.out.splitlines()[1].split()[-3:] == ["ping", "pending", "0"]


def test_a_webhook_is_deleted(command: Command, client: resnetd.Client) -> None:
    webhook = client.webhooks.create(URL)
    assert command("webhook", "delete", webhook.id) == 0
    assert command.out == f"{webhook.id} deleted\n"
    assert client.webhooks.list() == ()
    assert command("webhook", "ping", webhook.id) == 102
