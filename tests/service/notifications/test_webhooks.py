"""Deliveries of webhooks: enqueued with the state change, signed, retried."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime

import pytest

from service.execution import attempts
from service.notifications import deliveries, messages, webhooks
from service.notifications.messages import HttpMessage, MailMessage, Outcome
from service.specs.protocol import FinishAttemptRequest
from service.states import DeliveryState, JobState, Reason, Role
from service.storage.tables import DeliveryRow
from tests.support.core import Core, job_id_of


def _add(core: Core, *states: JobState, user: str = "ann") -> str:
    with core.database.transaction() as session:
        url = "https://example.org/hook"
        return webhooks.add_webhook(session, url, states, user=user, now=core.clock.now).id


def _claim(core: Core) -> HttpMessage | None:
    with core.database.transaction() as session:
        found = deliveries.claim_due_delivery(session, public_url=None, now=core.clock.now)
        assert not isinstance(found, MailMessage)
        return found


def _record(
    core: Core, delivery: HttpMessage, status: int | None, error: str | None = None
) -> None:
    with core.database.transaction() as session:
        outcome = Outcome(status, error)
        deliveries.record_outcome(session, delivery.delivery_id, outcome, now=core.clock.now)


def _log(core: Core, webhook_id: str) -> list[DeliveryRow]:
    with core.database.reading() as session:
        webhook = webhooks.find_webhook(session, webhook_id)
        return list(deliveries.list_deliveries(session, webhook, limit=100))


def test_a_webhook_receives_the_states_that_it_subscribes_to(core: Core) -> None:
    ends, starts = _add(core), _add(core, JobState.RUNNING)
    claimed = core.run()
    core.finish(claimed.attempt_id)
    for webhook_id, kind in ((ends, "job.succeeded"), (starts, "job.running")):
        (row,) = _log(core, webhook_id)
        assert row.payload["type"] == kind
        assert row.payload["data"]["id"] == job_id_of(claimed)
        assert row.payload["data"]["kind"] == "training"


def test_a_webhook_reports_the_jobs_of_its_user_and_one_of_an_admin_those_of_all(
    core: Core,
) -> None:
    core.add_person("bob")
    core.add_person("root", Role.ADMIN)
    added = {user: _add(core, JobState.RUNNING, user=user) for user in ("ann", "bob", "root")}
    claimed = core.run(user="ann")
    reported = {
        user: [row.payload["data"]["id"] for row in _log(core, webhook_id)]
        for user, webhook_id in added.items()
    }
    job_id = job_id_of(claimed)
    assert reported == {"ann": [job_id], "bob": [], "root": [job_id]}


def test_a_rolled_back_change_enqueues_no_delivery(core: Core) -> None:
    webhook_id = _add(core)
    claimed = core.run()
    with pytest.raises(RuntimeError), core.database.transaction() as session:
        request = FinishAttemptRequest(reason=Reason.COMPLETED)
        attempts.finish_attempt(session, claimed.attempt_id, request, now=core.clock.now)
        raise RuntimeError
    assert _log(core, webhook_id) == []


def test_a_signature_follows_standard_webhooks(core: Core) -> None:
    webhook_id = _add(core)
    with core.database.transaction() as session:
        webhooks.enqueue_ping(session, webhook_id, now=core.clock.now)
        secret = webhooks.find_webhook(session, webhook_id).secret
    delivery = _claim(core)
    assert delivery is not None
    key = base64.b64decode(secret.removeprefix("whsec_"))
    stamp = delivery.headers["webhook-timestamp"]
    signed = f"{delivery.delivery_id}.{stamp}.".encode() + delivery.body
    expected = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    assert delivery.headers["webhook-signature"] == f"v1,{expected}"
    assert int(stamp) == int(core.clock.now.timestamp())


def test_a_signature_equals_that_of_the_reference_libraries() -> None:
    """The example in the tests of Standard Webhooks' libraries."""
    headers = messages.sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        b'{"test": 2432232314}',
        now=datetime.fromtimestamp(1614265330, UTC),
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_claimed_delivery_is_not_claimed_again_for_a_minute(core: Core) -> None:
    webhook_id = _add(core)
    with core.database.transaction() as session:
        webhooks.enqueue_ping(session, webhook_id, now=core.clock.now)
    assert _claim(core) is not None
    assert _claim(core) is None
    core.clock.advance(60.0)
    assert _claim(core) is not None, "the first sender is dead"


def test_a_delivery_is_retried_with_backoff_and_then_fails(core: Core) -> None:
    webhook_id = _add(core)
    with core.database.transaction() as session:
        webhooks.enqueue_ping(session, webhook_id, now=core.clock.now)
    delays = []
    while (delivery := _claim(core)) is not None:
        _record(core, delivery, 500)
        (row,) = _log(core, webhook_id)
        delays.append((row.next_try_at - core.clock.now).total_seconds())
        core.clock.advance(delays[-1])
    assert delays[:4] == [10, 20, 40, 80]
    (row,) = _log(core, webhook_id)
    assert (row.state, row.tries, row.status) == (DeliveryState.FAILED, 10, 500)


def test_a_delivery_whose_senders_die_fails_in_the_end(core: Core) -> None:
    webhook_id = _add(core)
    with core.database.transaction() as session:
        webhooks.enqueue_ping(session, webhook_id, now=core.clock.now)
    for _ in range(deliveries.MAX_TRIES):
        assert _claim(core) is not None
        core.clock.advance(60.0)
    assert _claim(core) is None
    assert _log(core, webhook_id)[0].state is DeliveryState.FAILED


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (204, DeliveryState.DELIVERED),
        (410, DeliveryState.FAILED),
        (302, DeliveryState.PENDING),
        (None, DeliveryState.PENDING),
    ],
)
def test_the_response_determines_the_state_of_a_delivery(
    core: Core, status: int | None, state: DeliveryState
) -> None:
    webhook_id = _add(core)
    with core.database.transaction() as session:
        webhooks.enqueue_ping(session, webhook_id, now=core.clock.now)
    delivery = _claim(core)
    assert delivery is not None
    _record(core, delivery, status, None if status else "refused")
    assert _log(core, webhook_id)[0].state is state


def test_deleting_a_webhook_deletes_its_deliveries(core: Core) -> None:
    webhook_id = _add(core)
    with core.database.transaction() as session:
        webhooks.enqueue_ping(session, webhook_id, now=core.clock.now)
    delivery = _claim(core)
    assert delivery is not None
    with core.database.transaction() as session:
        webhooks.delete_webhook(session, webhook_id)
    _record(core, delivery, 200)
    core.clock.advance(3600.0)
    assert _claim(core) is None
