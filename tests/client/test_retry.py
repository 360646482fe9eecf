"""When requests are repeated, and when not."""

from types import SimpleNamespace

import pytest

import resnetd
from tests.client import faults
from tests.client.conftest import QUICK
from tests.client.service import SPEC, Service
from tests.support.api import TOKEN


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The delays before repeated requests, which are not waited for."""
    seconds: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=seconds.append))
    return seconds


def test_a_submission_whose_response_is_lost_creates_one_job(
    service: Service, client: resnetd.Client
) -> None:
    service.inject(*[faults.lose_response] * 2)
    job = client.submit(SPEC)
    posts = service.transport.find("POST", "/v1/jobs")
    assert len(posts) == 3
    assert len({post.headers["Idempotency-Key"] for post in posts}) == 1
    assert [found.id for found in client.jobs.list()] == [job.id]


def test_a_search_whose_response_is_lost_is_created_once(
    service: Service, client: resnetd.Client
) -> None:
    service.inject(faults.lose_response)
    search = client.searches.submit(
        job=SPEC, space={"seed": {"choice": [1, 2]}}, budget={"trials": 2}
    )
    assert [found.id for found in client.searches.list()] == [search.id]


def test_a_webhook_is_not_added_twice(service: Service, client: resnetd.Client) -> None:
    service.inject(faults.lose_response)
    with pytest.raises(resnetd.CannotConnect):
        client.webhooks.create("https://203.0.114.5/hook")
    (webhook,) = client.webhooks.list()
    service.inject(faults.lose_response)
    with pytest.raises(resnetd.CannotConnect):
        client.webhooks.ping(webhook.id)
    assert len(client.webhooks.deliveries(webhook.id)) == 1


def test_a_webhook_is_added_although_the_connection_was_refused(
    service: Service, client: resnetd.Client
) -> None:
    """As a process of the API does that just stops."""
    service.inject(faults.refuse_connection)
    client.webhooks.create("https://203.0.114.5/hook")
    assert len(client.webhooks.list()) == 1


def test_a_request_to_an_unavailable_service_is_repeated(
    service: Service, client: resnetd.Client
) -> None:
    job_id = service.submit()
    service.inject(faults.unavailable(), faults.refuse_connection)
    assert client.jobs.get(job_id).id == job_id


def test_the_last_error_is_raised_after_all_attempts(
    service: Service, client: resnetd.Client
) -> None:
    service.transport.lasting_fault = faults.unavailable()
    with pytest.raises(resnetd.Unavailable, match="no database"):
        client.cluster()
    assert len(service.transport.requests) == QUICK.attempts
    service.transport.lasting_fault = faults.respond(
        502, b"<html>bad gateway", Content_Type="text/html"
    )
    with pytest.raises(resnetd.Unavailable, match="502 Bad Gateway"):
        client.cluster()


def test_other_errors_are_not_repeated(service: Service, client: resnetd.Client) -> None:
    with pytest.raises(resnetd.NotFound):
        client.jobs.get("0f3k000000000001")
    assert len(service.transport.requests) == 1


def test_health_is_requested_once(service: Service, client: resnetd.Client) -> None:
    client.health()
    service.inject(faults.unavailable())
    with pytest.raises(resnetd.Unavailable):
        client.health()


def test_a_service_that_is_down_cannot_be_connected_to() -> None:
    with (
        resnetd.Client("http://127.0.0.1:1", TOKEN, retry=QUICK) as client,
        pytest.raises(resnetd.CannotConnect, match=r"http://127\.0\.0\.1:1"),
    ):
        client.cluster()


def test_delays_are_random_and_their_bounds_double(service: Service, delays: list[float]) -> None:
    retry = resnetd.Retry(attempts=9, first_delay_seconds=1.0, max_delay_seconds=16.0)
    service.transport.lasting_fault = faults.refuse_connection
    with resnetd.Client(service.url, TOKEN, retry=retry, transport=service.transport) as client:
        for _ in range(20):
            with pytest.raises(resnetd.CannotConnect):
                client.cluster()
    for number, bound in enumerate((1, 2, 4, 8, 16, 16, 16, 16)):
        assert bound / 4 < max(delays[number::8]) <= bound


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("3600", 60.0), ("-1", 0.0)])
def test_a_retry_after_header_is_respected_up_to_a_minute(
    service: Service, client: resnetd.Client, delays: list[float], header: str, seconds: float
) -> None:
    service.inject(faults.unavailable(Retry_After=header))
    client.cluster()
    assert delays == [pytest.approx(seconds, abs=QUICK.max_delay_seconds)]


def test_a_request_above_a_limit_waits_as_long_as_the_service_says(
    service: Service, client: resnetd.Client, delays: list[float]
) -> None:
    """More often than other requests are repeated, and also what is otherwise sent once."""
    service.inject(*[faults.too_many(3)] * (3 * QUICK.attempts))
    client.cluster()
    assert delays == [3.0] * (3 * QUICK.attempts)
    service.inject(faults.too_many(2))
    client.webhooks.create("https://203.0.114.5/hook")
    assert len(client.webhooks.list()) == 1
    assert delays[-1] == 2.0


def test_a_long_wait_is_obeyed_and_logged(
    service: Service,
    client: resnetd.Client,
    delays: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    service.inject(faults.too_many(2), faults.too_many(100))
    client.cluster()
    assert delays == [2.0, 100.0]
    assert caplog.messages == ["too many; waiting 100 s"]


def test_a_wait_beyond_the_patience_is_not_begun(
    service: Service, client: resnetd.Client, delays: list[float]
) -> None:
    service.transport.lasting_fault = faults.too_many(3600)
    with pytest.raises(resnetd.TooManyRequests) as refused:
        client.cluster()
    assert (refused.value.retry_after_seconds, delays) == (3600.0, [])


def test_a_limit_that_says_no_time_is_asked_again_after_growing_delays(
    service: Service, delays: list[float]
) -> None:
    retry = resnetd.Retry(attempts=2, first_delay_seconds=1.0, max_delay_seconds=4.0)
    for _ in range(20):
        service.inject(*[faults.too_many(None)] * 4)
        with resnetd.Client(service.url, TOKEN, retry=retry, transport=service.transport) as client:
            client.cluster()
    for number, bound in enumerate((1, 2, 4, 4)):
        assert bound / 4 < max(delays[number::4]) <= bound


def test_the_patience_with_a_limit_ends(service: Service, delays: list[float]) -> None:
    retry = resnetd.Retry(patience_seconds=0.0)
    service.transport.lasting_fault = faults.too_many(1)
    with (
        resnetd.Client(service.url, TOKEN, retry=retry, transport=service.transport) as client,
        pytest.raises(resnetd.TooManyRequests),
    ):
        client.cluster()
    assert delays == []


def test_a_retry_after_header_that_is_a_date_is_ignored(
    service: Service, client: resnetd.Client
) -> None:
    service.inject(faults.unavailable(Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"))
    client.cluster()
