"""The commands of webhooks."""

from tests.client.conftest import Command
from tests.client.fake_service import FakeService


def test_a_webhook_is_added_and_its_secret_shown_once(
    service: FakeService, command: Command
) -> None:
    assert command("webhook", "add", "https://example.org/hook", "--state", "failed") == 0
    assert command.out == "whsec_x\n"
    (request,) = service.asked("POST", "/v1/webhooks")
    assert request.body == {"url": "https://example.org/hook", "states": ["failed"]}
    assert command("webhook", "list") == 0
    assert "https://example.org/hook" in command.out
    assert "whsec" not in command.out


def test_a_webhook_is_tried_and_its_log_read(service: FakeService, command: Command) -> None:
    assert command("webhook", "ping", "w1") == 0
    assert len(service.asked("POST", "/v1/webhooks/w1/ping")) == 1
    assert command("webhook", "deliveries", "w1") == 0
    assert command.out.splitlines()[1].split()[-4:] == ["ping", "pending", "2", "503"]


def test_a_webhook_is_deleted(service: FakeService, command: Command) -> None:
    assert command("webhook", "delete", "w1") == 0
    assert len(service.asked("DELETE", "/v1/webhooks/w1")) == 1
