"""Alerts: the client and the command."""

import resnetd
from tests.client.conftest import Command

# RFC 5737 reserves it for documentation; it is a public address all the same.
URL = "https://203.0.114.5/hook"


def test_an_alert_is_added_listed_tested_logged_and_removed(
    command: Command, client: resnetd.Client
) -> None:
    assert command("alert", "add", "slack", URL, "--on", "silent", "--on", "failed") == 0
    assert command.out == ""
    (alert,) = client.alerts.list()
    assert f"resnetd alert test {alert.id}" in command.err
    assert command("alert", "list") == 0
    line = [alert.id, "slack", URL, "failed,", "silent", "admin"]
    assert command.out.splitlines()[1].split() == line
    assert command("alert", "test", alert.id) == 0
    assert command("alert", "log", alert.id) == 0
    assert command.out.splitlines()[1].split()[-3:] == ["alert.test", "pending", "0"]
    assert command("alert", "rm", alert.id) == 0
    assert client.alerts.list() == ()


def test_the_secret_of_an_alert_to_a_webhook_is_printed(command: Command) -> None:
    options = ("--on", "quota", "--tag", "a", "--all-jobs", "--minutes", "9", "--evaluations", "3")
    assert command("alert", "add", "webhook", URL, *options) == 0
    assert command.out.startswith("whsec_")


def test_an_unknown_condition_is_refused_with_those_that_exist(command: Command) -> None:
    assert command("alert", "add", "slack", URL, "--on", "late") != 0
    assert "queue-stuck" in command.err
