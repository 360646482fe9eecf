"""Requests are counted and timed by route, in a bounded number of series."""

from collections import Counter

from tests.support.api import Api
from tests.support.prometheus import Scraped, scrape

_COUNT = "resnetd_api_requests_total"


def _count(before: Scraped, after: Scraped) -> Counter[tuple[str, str, str]]:
    """Requests between two scrapes, by method, route and status, without the scrapes."""
    found: Counter[tuple[str, str, str]] = Counter()
    for (name, pairs), value in after.samples.items():
        labels = dict(pairs)
        if name == _COUNT and labels["route"] != "/metrics":
            key = (labels["method"], labels["route"], labels["status"])
            found[key] += int(value - before.value(name, **labels))
    return +found


def test_requests_are_counted_by_the_template_of_their_route(api: Api) -> None:
    jobs = [api.core.submit() for _ in range(3)]
    before = scrape(api)
    for job_id in jobs:
        api.get(f"/v1/jobs/{job_id}")
    api.get("/v1/jobs/" + "0" * 16)
    api.get("/v1/queue", token=None)
    api.get("/v1/nothing")
    api.get("/v1/nothing/else")
    api.call("DELETE", "/v1/queue")
    api.call("BREW", "/v1/queue")
    assert _count(before, scrape(api)) == {
        ("GET", "/v1/jobs/{job_id}", "200"): 3,
        ("GET", "/v1/jobs/{job_id}", "404"): 1,
        ("GET", "/v1/queue", "401"): 1,
        ("GET", "(none)", "404"): 2,
        ("DELETE", "/v1/queue", "405"): 1,
        ("(other)", "/v1/queue", "405"): 1,
    }


def test_requests_are_timed_until_their_response_begins(api: Api) -> None:
    before = scrape(api)
    api.get("/v1/queue")
    after = scrape(api)

    def differ(name: str) -> float:
        labels = {"method": "GET", "route": "/v1/queue"}
        return after.value(name, **labels) - before.value(name, **labels)

    assert differ("resnetd_api_request_seconds_count") == 1
    assert 0.0 < differ("resnetd_api_request_seconds_sum") < 30.0


def test_an_open_stream_is_an_open_request(api: Api) -> None:
    job_id = api.core.submit()
    with api.stream(job_id) as events:
        next(events)
        # The stream and the scrape itself.
        assert scrape(api).value("resnetd_api_open_requests") >= 2
