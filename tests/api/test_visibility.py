"""What members see where they see only what is theirs, and what a token of one tag sees."""

import json
from itertools import islice, product
from typing import Any

import pytest

from service.states import Role
from tests.support.api import TOKEN, Api, read_events
from tests.support.contract import DOCUMENT
from tests.support.core import job_id_of, note, written
from tests.support.rows import MACHINES, Rows
from tests.support.searching import TINY, search_body
from tests.support.studies import definition


class _Two:
    """Jobs of ann, who asks, and of bob."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.token = api.add_person("ann")
        api.add_person("bob")
        self.finished = self._finish("bob")
        self.own = self._finish("ann")

    def _finish(self, user: str) -> str:
        core = self.api.core
        taken = core.start(user=user, tags=[f"of-{user}"])
        self.api.checkpoint(taken, 1, note(20, test_error=5.0))
        core.finish(taken.attempt_id)
        core.release(taken)
        return job_id_of(taken)

    def get(self, path: str) -> Any:
        return self.api.get(path, token=self.token).json()


@pytest.fixture
def two(any_own_api: Api) -> _Two:
    return _Two(any_own_api)


@pytest.mark.parametrize(
    ("path", "read"),
    [
        ("/v1/jobs", lambda body: [job["id"] for job in body["jobs"]]),
        ("/v1/jobs?where=user:bob,ann", lambda body: [job["id"] for job in body["jobs"]]),
        (
            "/v1/groups?by=id",
            lambda body: [job["id"] for group in body["groups"] for job in group["jobs"]],
        ),
    ],
)
def test_lists_have_the_jobs_of_their_reader(two: _Two, path: str, read: Any) -> None:
    assert read(two.get(path)) == [two.own]
    assert set(read(two.api.get(path).json())) == {two.own, two.finished}


@pytest.mark.parametrize("reader", ["member", "tag token", "link"])
def test_no_route_shows_what_its_reader_does_not_see(api: Api, own_api: Api, reader: str) -> None:
    """A member who sees what is his, a token of a tag, and a link to something else."""
    served = own_api if reader == "member" else api
    rows = Rows(served)
    tokens = {"member": rows.member, "tag token": rows.tag_token, "link": rows.comparison_link}
    names = ["job_id", "attempt_id", "search_id", "webhook_id", "alert_id", "token_id", "share_id"]
    if reader != "link":
        names.append("study_id")
    hidden = [str(rows.in_path[name]) for name in names]
    if reader == "member":
        hidden += ['"ann"', "user:ann"]
    job_id = rows.in_path["job_id"]
    queries = ("", f"?job={job_id}", "?where=user:ann", f"?id_prefix={job_id}")
    shown: list[tuple[str, str, int | str]] = []
    for path, operations in DOCUMENT["paths"].items():
        if "get" not in operations or path == "/v1/stream" or path.startswith(MACHINES):
            continue
        accepted = ("*/*", "text/event-stream") if path.endswith("/events") else ("*/*",)
        for query, accept in product(queries if "{" not in path else ("",), accepted):
            answer = served.get(
                rows.fill(path) + query, token=tokens[reader], headers={"Accept": accept}
            )
            is_named = any(f"{{{name}}}" in path for name in names)
            if is_named and answer.status_code not in {403, 404}:
                shown.append((path, query, answer.status_code))
            if answer.is_success and any(value in answer.text for value in hidden):
                shown.append((path, query, answer.text[:500]))
    assert shown == []


@pytest.mark.parametrize("reader", ["member", "tag token", "link"])
def test_a_stream_shows_no_more_than_its_routes(api: Api, own_api: Api, reader: str) -> None:
    served = own_api if reader == "member" else api
    rows = Rows(served)
    tokens = {"member": rows.member, "tag token": rows.tag_token, "link": rows.comparison_link}
    job, search = f"/v1/jobs/{rows.in_path['job_id']}", f"/v1/searches/{rows.in_path['search_id']}"
    parts = ("", "/attempts", "/checkpoints", "/envelope", "/events", "/lineage", "/logs")
    hidden = [f"{job}{part}" for part in (*parts, "/analyses")]
    hidden += [f"{search}{part}" for part in ("", "/trials", "/events")]
    hidden.append(f"/v1/metrics?job={rows.in_path['job_id']}")
    lists = ["/v1/jobs", "/v1/runners", "/v1/queue", "/v1/searches"]
    params = {"read": hidden + lists}
    headers = {"Authorization": f"Bearer {tokens[reader]}"}
    with served.http.stream("GET", "/v1/stream", params=params, headers=headers) as answer:
        count = len(hidden) + len(lists)
        seen = [message["data"] for message in islice(read_events(answer.iter_lines()), count)]
    assert {message["status"] for message in seen[: len(hidden)]} <= {403, 404}
    assert rows.in_path["job_id"] not in json.dumps(seen[len(hidden) :])


def test_viewers_see_all(two: _Two) -> None:
    found = two.api.get("/v1/jobs", token=two.api.add_person("vera", Role.VIEWER)).json()
    assert len(found["jobs"]) == 2


@pytest.mark.parametrize("path", ["/v1/metrics?job={}", "/v1/predictions?job={}"])
def test_a_hidden_job_in_a_query_does_not_exist(two: _Two, path: str) -> None:
    answer = two.api.get(path.format(two.finished), token=two.token)
    assert (answer.status_code, answer.json()["detail"]) == (404, f"no job {two.finished!r}")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/jobs", written(after=["{}"])),
        ("/v1/jobs", written(start_from={"job": "{}", "mode": "weights"})),
        ("/v1/jobs:plan", written(start_from={"job": "{}", "mode": "weights"})),
        ("/v1/jobs:batch", {"jobs": [written(after=["{}"])]}),
        (
            "/v1/searches",
            search_body(job=written(recipe=TINY, start_from={"job": "{}", "mode": "weights"})),
        ),
        (
            "/v1/comparisons",
            {
                side: written(recipe=recipe, start_from={"job": "{}", "mode": "weights"})
                for side, recipe in (("a", TINY), ("b", TINY | {"weight_decay": 0.001}))
            },
        ),
        ("/v1/analyses", {"job": "{}", "analysis": {"kind": "layer-responses"}}),
    ],
)
def test_a_submission_cannot_name_a_hidden_job(two: _Two, path: str, body: Any) -> None:
    for job_id, is_hidden in ((two.finished, True), (two.own, False)):
        filled = json.loads(json.dumps(body).replace("{}", job_id))
        answer = two.api.post(path, filled, token=two.token)
        assert (answer.status_code == 422) is is_hidden, answer.text
        if is_hidden:
            assert "no job" in answer.json()["errors"][0]["message"]


def test_a_study_reuses_the_jobs_that_its_owner_sees(two: _Two) -> None:
    body = {"definition": definition(), "scale": "smoke"}
    bob = two.api.add_person("bob")
    two.api.post("/v1/studies", body, token=bob)
    count = len(two.api.get("/v1/jobs").json()["jobs"])
    assert two.api.post("/v1/studies", body, token=bob).status_code == 201
    assert len(two.api.get("/v1/jobs").json()["jobs"]) == count
    assert two.api.post("/v1/studies", body, token=two.token).status_code == 201
    assert len(two.api.get("/v1/jobs").json()["jobs"]) == count + 4
    assert len(two.get("/v1/studies")["studies"]) == 1


def test_searches_and_webhooks_of_others_are_hidden(two: _Two) -> None:
    bob = two.api.add_person("bob")
    two.api.post("/v1/searches", search_body(), token=bob)
    two.api.post("/v1/webhooks", {"url": "https://example.org/"}, token=bob)
    assert two.get("/v1/searches")["searches"] == []
    assert two.get("/v1/webhooks")["webhooks"] == []
    assert len(two.api.get("/v1/webhooks", token=bob).json()["webhooks"]) == 1


def test_the_position_in_the_queue_counts_all_jobs_and_the_list_shows_ones_own(
    two: _Two,
) -> None:
    core = two.api.core
    core.record_cluster(cpus=1)
    core.submit(user="bob")
    own = core.submit(user="ann")
    (waiting,) = two.get("/v1/queue")["jobs"]
    assert (waiting["job_id"], waiting["waiting"]["position"]) == (own, 2)
    assert two.get(f"/v1/jobs/{own}")["waiting"]["position"] == 2


def test_a_waiting_job_names_no_job_that_its_reader_does_not_see(two: _Two) -> None:
    core = two.api.core
    core.record_cluster(cpus=1)
    core.set_quota("tag:nightly", jobs=1)
    running = core.submit(user="bob", tags=["nightly"])
    core.start_next()
    limited = core.submit(user="ann", tags=["nightly"])
    own = core.submit(user="ann")
    for job_id in (limited, own):
        message = two.get(f"/v1/jobs/{job_id}")["waiting"]["message"]
        assert "; another job ends in at most " in message
        complete = two.api.get(f"/v1/jobs/{job_id}").json()["waiting"]["message"]
        assert f"job {running} ends in at most " in complete
    assert running not in json.dumps(two.get("/v1/queue"))
    blocked = core.submit(user="ann", after=[running, own])
    assert two.get(f"/v1/jobs/{blocked}")["waiting"]["message"] == (
        f"starts after jobs {own} (queued), 1 other"
    )


def test_an_event_names_no_job_that_its_reader_does_not_see(two: _Two) -> None:
    core = two.api.core
    core.record_cluster(cpus=1)
    own = core.submit(user="ann", priority=0, preemptible=True)
    core.start_next()
    urgent = core.submit(user="bob", priority=100)
    assert core.try_claim() is None, "the other job is asked to stop"
    seen = {}
    for reader, token in (("ann", two.token), ("admin", TOKEN)):
        listed = two.api.get(f"/v1/jobs/{own}/events", token=token).json()["events"]
        headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
        with two.api.http.stream("GET", f"/v1/jobs/{own}/events", headers=headers) as answer:
            streamed = [message["data"] for message in islice(read_events(answer.iter_lines()), 4)]
        stops = [event for event in [*listed, *streamed] if event.get("kind") == "stop-requested"]
        seen[reader] = [event["data"]["by"] for event in stops]
    assert seen == {"ann": [None, None], "admin": [urgent, urgent]}


def test_a_job_that_another_starts_from_is_kept_without_naming_that(two: _Two) -> None:
    start = {"job": two.own, "mode": "weights"}
    other = two.api.core.submit(user="bob", start_from=start)
    refused = two.api.call("DELETE", f"/v1/jobs/{two.own}", token=two.token)
    assert (refused.status_code, other in refused.text) == (409, False)
    assert other in two.api.call("DELETE", f"/v1/jobs/{two.own}").json()["detail"]


def test_the_end_of_a_job_cancels_jobs_that_its_owner_does_not_see(two: _Two) -> None:
    own = two.api.core.submit(user="ann")
    dependent = two.api.core.submit(user="bob", after=[own])
    assert two.api.post(f"/v1/jobs/{own}/cancel", token=two.token).status_code == 202
    assert two.api.core.job(dependent).state == "cancelled"


def test_streams_of_different_people_share_no_response(two: _Two) -> None:
    """A response is shared by those who see the same rows."""
    seen = []
    for token in (two.token, two.api.add_person("bob")):
        headers = {"Authorization": f"Bearer {token}"}
        params = {"read": ["/v1/jobs"]}
        with two.api.http.stream("GET", "/v1/stream", params=params, headers=headers) as answer:
            message = next(read_events(answer.iter_lines()))
            seen.append([job["id"] for job in message["data"]["body"]["jobs"]])
    assert seen == [[two.own], [two.finished]]


def test_a_token_of_a_tag_submits_and_steers_jobs_with_it_only(api: Api) -> None:
    token = api.add_person("ann", tag="nightly")
    refused = api.post("/v1/jobs", written(), token=token)
    assert refused.status_code == 403
    assert "only jobs with the tag 'nightly'" in refused.json()["detail"]
    accepted = api.post("/v1/jobs", written(tags=["nightly"]), token=token)
    assert accepted.status_code == 201
    job_id = accepted.json()["id"]
    other = api.core.submit(user="ann")
    listed = api.get("/v1/jobs", token=token).json()["jobs"]
    assert [job["id"] for job in listed] == [job_id]
    assert api.post(f"/v1/jobs/{other}/cancel", token=token).status_code == 404
    assert api.post(f"/v1/jobs/{job_id}/clone", {"tags": []}, token=token).status_code == 403
    assert len(api.get("/v1/jobs").json()["jobs"]) == 2
    assert api.post(f"/v1/jobs/{job_id}/cancel", token=token).status_code == 202
