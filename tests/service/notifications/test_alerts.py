"""Alerts: which changes are reported, to which alerts, once, and how each channel writes it."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from service.errors import InvalidInput, UrlNotAllowed
from service.jobs import lifecycle
from service.notifications import alerts, deliveries
from service.notifications.messages import HttpMessage, MailMessage
from service.specs.alert_spec import AlertSpec
from service.states import AlertCondition, JobState, Reason, Role
from tests.support.alerts import add_alert, read_reported
from tests.support.core import Core

ALL = list(AlertCondition)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (Reason.COMPLETED, ["succeeded"]),
        (Reason.DIVERGED, ["diverged"]),
        (Reason.TIME_LIMIT, ["failed"]),
        (Reason.PAUSED, []),
    ],
)
def test_the_end_of_a_job_is_reported_once_by_its_most_specific_condition(
    core: Core, reason: Reason, expected: list[str]
) -> None:
    alert_id = add_alert(core, *ALL)
    core.finish(core.run().attempt_id, reason)
    assert read_reported(core, alert_id) == expected


def test_only_a_hold_by_the_service_is_reported(core: Core) -> None:
    alert_id = add_alert(core, *ALL)
    core.command("hold", core.submit())
    claimed = core.run()
    for _ in range(2):
        core.finish(claimed.attempt_id, Reason.WORKER_DIED)
        core.release(claimed)
        claimed = core.retry()
    core.finish(claimed.attempt_id, Reason.WORKER_DIED)
    assert read_reported(core, alert_id) == ["held"]


def test_an_alert_is_about_the_jobs_of_its_person_and_its_tags(core: Core) -> None:
    core.add_person("bob")
    core.add_person("root", Role.ADMIN)
    fields: dict[str, dict[str, Any]] = {
        "ann": {},
        "ann, other tag": {"tags": ["daily"]},
        "ann, tag": {"tags": ["nightly", "daily"]},
        "bob": {"user": "bob"},
        "bob, all, but no admin": {"user": "bob", "all_jobs": True},
        "root": {"user": "root"},
        "root, all": {"user": "root", "all_jobs": True},
    }
    added = {name: add_alert(core, AlertCondition.SUCCEEDED, **fields[name]) for name in fields}
    core.finish(core.run(user="ann", tags=["nightly"]).attempt_id)
    found = {name for name, alert_id in added.items() if read_reported(core, alert_id)}
    assert found == {"ann", "ann, tag", "root, all"}


def test_a_rolled_back_change_reports_nothing(core: Core) -> None:
    alert_id = add_alert(core, *ALL)
    job_id = core.submit()
    with pytest.raises(RuntimeError), core.database.transaction() as session:
        job = lifecycle.lock_job(session, job_id)
        reason = Reason.INTERNAL
        lifecycle.transition(session, job, JobState.FAILED, reason=reason, now=core.clock.now)
        raise RuntimeError
    assert read_reported(core, alert_id) == []


def _claim(core: Core, channel: str, target: str) -> HttpMessage | MailMessage:
    """The message about a job that has failed."""
    add_alert(core, AlertCondition.FAILED, channel=channel, target=target)
    claimed = core.run(name="<!channel> ä")
    core.finish(claimed.attempt_id, Reason.TIME_LIMIT, message="1 & 2 @everyone")
    core.release(claimed)
    with core.database.transaction() as session:
        url, now = "https://resnetd.example.org", core.clock.now
        found = deliveries.claim_due_delivery(session, public_url=url, now=now)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("channel", "expected"),
    [
        (
            "slack",
            {"text": "&lt;!channel&gt; ä failed: time-limit\n1 &amp; 2 @everyone\n{link}"},
        ),
        (
            "discord",
            {
                "content": "<!channel> ä failed: time-limit\n1 & 2 @everyone\n{link}",
                "allowed_mentions": {"parse": []},
            },
        ),
    ],
)
def test_a_chat_gets_its_format_and_mentions_no_person(
    core: Core, channel: str, expected: dict[str, Any]
) -> None:
    message = _claim(core, channel, "https://example.org/x")
    assert isinstance(message, HttpMessage)
    sent = json.loads(message.body)
    text = sent[next(iter(expected))]
    link = text.rpartition("\n")[2]
    assert link.startswith("https://resnetd.example.org/jobs/")
    assert sent == json.loads(json.dumps(expected).replace("{link}", link))


def test_an_alert_to_a_webhook_is_signed_and_has_the_job(core: Core) -> None:
    message = _claim(core, "webhook", "https://example.org/x")
    assert isinstance(message, HttpMessage)
    assert message.headers["webhook-signature"].startswith("v1,")
    sent = json.loads(message.body)
    assert (sent["type"], sent["data"]["state"]) == ("alert.failed", "failed")


def test_an_e_mail_has_the_title_as_its_subject(core: Core) -> None:
    message = _claim(core, "email", "ann@example.org")
    assert isinstance(message, MailMessage)
    assert (message.to, message.subject) == ("ann@example.org", "<!channel> ä failed: time-limit")


@pytest.mark.parametrize(
    ("channel", "target", "domains", "error"),
    [
        ("slack", "http://127.0.0.1/x", (), UrlNotAllowed),
        ("webhook", "file:///etc/passwd", (), InvalidInput),
        ("discord", "https://example.org/x", (), None),
        ("email", "ann@example.org", (), None),
        ("email", "ann@example.org", ("Example.org",), None),
        ("email", "ann@example.org.evil.net", ("example.org",), InvalidInput),
        ("email", "ann@example.org,bob@example.org", (), InvalidInput),
        ("email", "https://example.org/x", (), InvalidInput),
    ],
)
def test_a_target_must_be_allowed(
    channel: str, target: str, domains: Sequence[str], error: type[Exception] | None
) -> None:
    spec = AlertSpec.model_validate(
        {"channel": channel, "target": target, "conditions": ["failed"]}
    )
    raised: InvalidInput | None = None
    try:
        alerts.check_target(spec, allowed=(), sends_mail=True, mail_domains=domains)
    except InvalidInput as refusal:
        raised = refusal
    assert (None if raised is None else type(raised)) is error
