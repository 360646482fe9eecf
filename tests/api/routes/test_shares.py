"""Shares: a link reads what was shared, until it expires or is revoked, and nothing else."""

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from service.states import Role, TokenScope
from tests.support.analyses import finish_analysis, finish_training, submit_analysis
from tests.support.api import RFC_3339, TOKEN, Api, read_events
from tests.support.core import job_id_of, make_point, note
from tests.support.studies import submit_study

BROWSER = {"X-Requested-With": "tests"}


def _train(api: Api, user: str = "ann", **spec: Any) -> str:
    """The id of a finished job with metrics and a checkpoint."""
    core = api.core
    running = core.run(user=user, **spec)
    core.report(running.attempt_id, 2, metrics=[make_point("test/error", 20, 5.0)])
    api.checkpoint(running, 3, note(20, test_error=5.0))
    core.finish(running.attempt_id)
    core.release(running)
    return job_id_of(running)


def _share(api: Api, token: str | None = TOKEN, **subject: Any) -> dict[str, Any]:
    made = api.post("/v1/shares", subject, token=token)
    assert made.status_code == 201, made.text
    found: dict[str, Any] = made.json()
    return found


def test_a_link_reads_what_the_page_of_its_job_shows_and_no_other_job(any_api: Api) -> None:
    ann = any_api.add_person("ann")
    shared, other = _train(any_api), _train(any_api, start_from=None)
    secret = _share(any_api, ann, jobs=[shared])["secret"]
    parts = (
        "",
        *[
            "/analyses",
            "/attempts",
            "/checkpoints",
            "/envelope",
            "/events",
            "/lineage",
            "/progress",
        ],
    )
    for job_id, expected in ((shared, 200), (other, 404)):
        paths = [f"/v1/jobs/{job_id}{part}" for part in parts]
        paths += [f"/v1/metrics?job={job_id}", f"/v1/jobs/{job_id}/metrics"]
        statuses = {path: any_api.get(path, token=secret).status_code for path in paths}
        assert set(statuses.values()) == {expected}, statuses
    for path in ("/v1/jobs", f"/v1/jobs?job={shared}&job={other}", "/v1/groups?by=id"):
        body = any_api.get(path, token=secret).json()
        jobs = body["jobs"] if "jobs" in body else body["groups"][0]["jobs"]
        assert [job["id"] for job in jobs] == [shared], path
    for path in (f"/v1/jobs/{shared}/logs", f"/v1/jobs/{shared}/checkpoints/newest/weights"):
        refused = any_api.get(path, token=secret)
        assert refused.status_code == 403
        assert "only what was shared" in refused.json()["detail"]


def test_a_link_to_a_job_shows_its_analyses_and_not_what_continues_it(any_api: Api) -> None:
    core = any_api.core
    job_id = finish_training(core)
    analysis = submit_analysis(core, job_id)
    finish_analysis(core)
    continued = core.submit(start_from={"job": job_id, "mode": "weights"})
    of_another = submit_analysis(core, finish_training(core))
    secret = _share(any_api, jobs=[job_id])["secret"]
    listed = any_api.get(f"/v1/jobs/{job_id}/analyses", token=secret).json()["analyses"]
    assert [found["job_id"] for found in listed] == [analysis]
    expected = {analysis: 200, continued: 404, of_another: 404}
    for shown, status in expected.items():
        assert any_api.get(f"/v1/jobs/{shown}", token=secret).status_code == status
    assert any_api.get(f"/v1/jobs/{analysis}/analysis", token=secret).status_code == 200


def test_a_link_changes_nothing(api: Api) -> None:
    secret = _share(api, jobs=[_train(api)])["secret"]
    waiting = api.core.submit()
    for method, path in (
        *(("POST", f"/v1/jobs/{waiting}/cancel"), ("DELETE", f"/v1/jobs/{waiting}")),
        *(("POST", "/v1/shares"), ("POST", "/v1/tokens"), ("POST", "/v1/jobs")),
    ):
        assert api.call(method, path, token=secret).status_code == 403, path


def test_a_link_to_a_study_reads_the_study_and_its_jobs(api: Api) -> None:
    foreign = _train(api)
    study, other = submit_study(api.core), submit_study(api.core)
    secret = _share(api, study=study)["secret"]
    assert api.get(f"/v1/studies/{study}/report", token=secret).status_code == 200
    assert api.get(f"/v1/studies/{other}", token=secret).status_code == 404
    members = api.get(f"/v1/studies/{study}", token=secret).json()["members"]
    ids = {job["job_id"] for member in members for job in member["jobs"]}
    assert {job["id"] for job in api.get("/v1/jobs", token=secret).json()["jobs"]} == ids
    assert foreign not in ids
    assert (
        api.get(f"/v1/studies/{study}", token=_share(api, jobs=[foreign])["secret"]).status_code
        == 404
    )


def test_streams_of_two_links_share_no_response(api: Api) -> None:
    ids = [_train(api), _train(api)]
    for job_id in ids:
        secret = _share(api, jobs=[job_id])["secret"]
        headers = {"Authorization": f"Bearer {secret}"}
        params = {"read": ["/v1/jobs"]}
        with api.http.stream("GET", "/v1/stream", params=params, headers=headers) as answer:
            message = next(read_events(answer.iter_lines()))
        assert [job["id"] for job in message["data"]["body"]["jobs"]] == [job_id]


def test_a_link_ends_when_it_expires_or_is_revoked_with_the_browsers_that_opened_it(
    any_api: Api,
) -> None:
    kinds = ("share-created", "share-opened", "share-revoked")
    before = any_api.list_audit(*kinds)
    job_id = _train(any_api)
    now = any_api.core.clock.now
    short = _share(any_api, jobs=[job_id], expires_at=(now + timedelta(hours=1)).strftime(RFC_3339))
    default = _share(any_api, jobs=[job_id])
    for link in (short, default):
        body = {"token": link["secret"]}
        opened = any_api.post("/v1/session", body, token=None, headers=BROWSER)
        assert opened.json()["shared"] == {"jobs": [job_id], "study": None}
    assert any_api.get("/v1/session", token=None).json()["scope"] == "shared"
    any_api.core.clock.advance(3601.0)
    path = f"/v1/jobs/{job_id}"
    assert any_api.get(path, token=short["secret"]).status_code == 401
    assert any_api.get(path, token=None).status_code == 200, "by the cookie"
    assert any_api.call("DELETE", f"/v1/shares/{default['id']}").status_code == 204
    assert any_api.get(path, token=None).status_code == 401
    assert any_api.get(path, token=default["secret"]).status_code == 401
    any_api.http.cookies.clear()
    entries = any_api.list_audit(*kinds, but=before)
    assert {entry["subject"] for entry in entries} == {short["id"], default["id"]}
    counted = Counter(entry["kind"] for entry in entries)
    assert counted == {"share-revoked": 1, "share-opened": 2, "share-created": 2}


def test_only_what_is_ones_own_is_shared_and_links_are_private(api: Api) -> None:
    ann, bob = api.add_person("ann"), api.add_person("bob")
    own, other = _train(api, "ann"), _train(api, "bob")
    refused = api.post("/v1/shares", {"jobs": [own, other]}, token=ann)
    assert (refused.status_code, "only bob" in refused.json()["detail"]) == (403, True)
    link = _share(api, ann, jobs=[own])
    listed = [
        [share["id"] for share in api.get("/v1/shares", token=token).json()["shares"]]
        for token in (ann, bob, TOKEN)
    ]
    assert listed == [[link["id"]], [], [link["id"]]]
    assert api.call("DELETE", f"/v1/shares/{link['id']}", token=bob).status_code == 404
    # It is no token of the person.
    assert len(api.get("/v1/tokens", token=ann).json()["tokens"]) == 1
    assert api.post(f"/v1/tokens/{link['id']}/rotate", token=ann).status_code == 404
    viewer = api.add_person("vera", Role.VIEWER)
    assert api.post("/v1/shares", {"jobs": [own]}, token=viewer).status_code == 403


def test_a_link_shows_no_more_than_its_owner_sees(own_api: Api) -> None:
    own_api.add_person("ann")
    job_id = _train(own_api, "ann")
    secret = _share(own_api, own_api.add_person("ann"), jobs=[job_id])["secret"]
    assert own_api.get(f"/v1/jobs/{job_id}", token=secret).status_code == 200
    own_api.call("DELETE", "/v1/people/ann")
    assert own_api.get(f"/v1/jobs/{job_id}", token=secret).status_code == 401


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 422),
        ({"jobs": ["0" * 16], "study": "0" * 16}, 422),
        ({"jobs": ["0" * 16]}, 404),
        ({"study": "0" * 16}, 404),
        ({"jobs": ["0" * 16], "expires_at": "2037-01-01T00:00:00Z"}, 422),
    ],
)
def test_a_share_needs_one_subject_that_exists_and_an_end(
    api: Api, changes: dict[str, Any], status: int
) -> None:
    assert api.post("/v1/shares", changes).status_code == status


def test_a_token_with_the_scope_of_links_is_not_created(api: Api) -> None:
    refused = api.post("/v1/tokens", {"label": "x", "scope": TokenScope.SHARED})
    assert refused.status_code == 422
