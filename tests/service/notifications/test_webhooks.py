"""Webhooks: told of what they asked for, in the change's own transaction; tried again, then not."""

import base64
import hashlib
import hmac

import pytest

from service.execution import attempts
from service.notifications import webhooks
from service.notifications.webhooks import SignedDelivery
from service.specs.protocol import FinishAttemptRequest
from service.states import DeliveryState, JobState, Reason
from service.storage.tables import DeliveryRow
from tests.support.core import Core, job_id_of


def _add(core: Core, *states: JobState) -> str:
    with core.database.transaction() as session:
        url = "https://example.org/hook"
        return webhooks.add_webhook(session, url, states, user="ann", now=core.clock.now).id


def _take(core: Core) -> SignedDelivery | None:
    with core.database.transaction() as session:
        return webhooks.take_due(session, now=core.clock.now)


def _record(
    core: Core, letter: SignedDelivery, status: int | None, error: str | None = None
) -> None:
    with core.database.transaction() as session:
        webhooks.record_outcome(
            session, letter.delivery_id, status=status, error=error, now=core.clock.now
        )


def _log(core: Core, webhook_id: str) -> list[DeliveryRow]:
    with core.database.reading() as session:
        return webhooks.list_deliveries(session, webhook_id, limit=100)


def test_a_webhook_is_told_of_the_states_that_it_asked_for(core: Core) -> None:
    ends, starts = _add(core), _add(core, JobState.RUNNING)
    claimed = core.run()
    core.finish(claimed.attempt_id)
    for webhook_id, kind in ((ends, "job.succeeded"), (starts, "job.running")):
        (told,) = _log(core, webhook_id)
        assert told.payload["type"] == kind
        assert told.payload["data"]["id"] == job_id_of(claimed)


def test_a_change_that_is_rolled_back_is_told_to_nobody(core: Core) -> None:
    webhook_id = _add(core)
    claimed = core.run()
    with pytest.raises(RuntimeError), core.database.transaction() as session:
        last_word = FinishAttemptRequest(reason=Reason.COMPLETED)
        attempts.finish_attempt(session, claimed.attempt_id, last_word, now=core.clock.now)
        raise RuntimeError
    assert _log(core, webhook_id) == []


def test_a_signature_is_what_standard_webhooks_says(core: Core) -> None:
    webhook_id = _add(core)
    with core.database.transaction() as session:
        webhooks.ping(session, webhook_id, now=core.clock.now)
        secret = webhooks.find_webhook(session, webhook_id).secret
    letter = _take(core)
    assert letter is not None
    key = base64.b64decode(secret.removeprefix("whsec_"))
    stamp = letter.headers["webhook-timestamp"]
    signed = f"{letter.delivery_id}.{stamp}.".encode() + letter.body
    expected = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    assert letter.headers["webhook-signature"] == f"v1,{expected}"
    assert int(stamp) == int(core.clock.now.timestamp())


def test_a_delivery_that_was_taken_is_nobody_elses_for_a_minute(core: Core) -> None:
    webhook_id = _add(core)
    with core.database.transaction() as session:
        webhooks.ping(session, webhook_id, now=core.clock.now)
    assert _take(core) is not None
    assert _take(core) is None
    core.clock.advance(60.0)
    assert _take(core) is not None, "the first sender is dead"


def test_a_delivery_is_tried_again_ever_later_and_then_given_up(core: Core) -> None:
    webhook_id = _add(core)
    with core.database.transaction() as session:
        webhooks.ping(session, webhook_id, now=core.clock.now)
    waited = []
    while (letter := _take(core)) is not None:
        _record(core, letter, 500)
        (told,) = _log(core, webhook_id)
        waited.append((told.next_try_at - core.clock.now).total_seconds())
        core.clock.advance(waited[-1])
    assert waited[:4] == [10, 20, 40, 80]
    (told,) = _log(core, webhook_id)
    assert (told.state, told.tries, told.status) == (DeliveryState.FAILED, 10, 500)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (204, DeliveryState.DELIVERED),
        (410, DeliveryState.FAILED),
        (302, DeliveryState.PENDING),
        (None, DeliveryState.PENDING),
    ],
)
def test_an_answer_decides_what_becomes_of_a_delivery(
    core: Core, status: int | None, state: DeliveryState
) -> None:
    webhook_id = _add(core)
    with core.database.transaction() as session:
        webhooks.ping(session, webhook_id, now=core.clock.now)
    letter = _take(core)
    assert letter is not None
    _record(core, letter, status, None if status else "refused")
    assert _log(core, webhook_id)[0].state is state


def test_a_deleted_webhook_takes_its_log_along(core: Core) -> None:
    webhook_id = _add(core)
    with core.database.transaction() as session:
        webhooks.ping(session, webhook_id, now=core.clock.now)
    letter = _take(core)
    assert letter is not None
    with core.database.transaction() as session:
        webhooks.delete_webhook(session, webhook_id)
    _record(core, letter, 200)
    core.clock.advance(3600.0)
    assert _take(core) is None
