"""People, their roles and their tokens."""

from datetime import timedelta
from typing import Any

from service.states import AlertCondition, Role
from service.storage.tables import AuditRow, Base
from tests.support.alerts import add_alert
from tests.support.api import RFC_3339, Api
from tests.support.core import job_id_of, written
from tests.support.fake_api import eventually
from tests.support.searching import search_body
from tests.support.studies import definition


def _names(api: Api) -> dict[str, str]:
    return {person["name"]: person["role"] for person in api.get("/v1/people").json()["people"]}


def _create_token(api: Api, query: str = "", **fields: Any) -> dict[str, Any]:
    answer = api.post(f"/v1/tokens{query}", {"label": "laptop"} | fields)
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created


def test_a_person_is_added_changed_and_removed(any_api: Api) -> None:
    added = any_api.post("/v1/people", {"name": "ann"})
    assert added.status_code == 201
    assert added.json() == {
        "name": "ann",
        "role": "member",
        "group": None,
        "created_at": any_api.core.clock.now.strftime(RFC_3339),
        "tokens": 0,
        "last_used_at": None,
    }
    again = any_api.post("/v1/people", {"name": "ann"})
    assert (again.status_code, again.json()["detail"]) == (409, "there is a person 'ann' already")
    any_api.call("PATCH", "/v1/people/ann", json={"role": "viewer"})
    assert _names(any_api) == {"admin": "admin", "ann": "viewer"}
    assert any_api.call("DELETE", "/v1/people/ann").status_code == 204
    assert _names(any_api) == {"admin": "admin"}
    assert any_api.call("DELETE", "/v1/people/ann").status_code == 404
    assert any_api.call("PATCH", "/v1/people/ann", json={"role": "admin"}).status_code == 404


def test_a_person_is_in_at_most_one_group(any_api: Api) -> None:
    added = any_api.post("/v1/people", {"name": "ann", "group": "cs101"}).json()
    assert added["group"] == "cs101"
    token = any_api.add_person("ann")
    before = any_api.list_audit("group-changed")
    for group, expected in (("cs102", "cs102"), (None, "cs102"), ("", None)):
        any_api.core.clock.advance(1.0)
        changed = any_api.call("PATCH", "/v1/people/ann", json={"group": group})
        assert (changed.json()["group"], changed.json()["role"]) == (expected, "member")
        assert any_api.get("/v1/session", token=token).json()["group"] == expected
    entries = any_api.list_audit("group-changed", but=before)
    assert [entry["data"] for entry in entries] == [{"group": None}, {"group": "cs102"}]
    for wrong in ("", "x" * 121, "a\nb"):
        assert any_api.post("/v1/people", {"name": "ben", "group": wrong}).status_code == 422


def test_the_last_admin_can_neither_be_removed_nor_lose_the_role(any_api: Api) -> None:
    for refused in (
        any_api.call("DELETE", "/v1/people/admin"),
        any_api.call("PATCH", "/v1/people/admin", json={"role": "member"}),
    ):
        assert refused.status_code == 409
        assert refused.json()["detail"] == (
            "admin is the only admin; make another person admin first"
        )


def test_a_changed_role_counts_from_the_next_request_on(any_api: Api) -> None:
    token = any_api.add_person("ann", Role.VIEWER)
    assert any_api.post("/v1/jobs", written(), token=token).status_code == 403
    any_api.call("PATCH", "/v1/people/ann", json={"role": "member"})
    assert any_api.post("/v1/jobs", written(), token=token).status_code == 201
    assert any_api.get("/v1/session", token=token).json()["role"] == "member"


def test_a_removed_person_leaves_jobs_with_their_events_and_nothing_else(any_api: Api) -> None:
    token = any_api.add_person("ann")
    any_api.post("/v1/webhooks", {"url": "https://example.org/"}, token=token)
    add_alert(any_api.core, AlertCondition.FAILED, user="ann")
    headers = {"Idempotency-Key": "once"}
    job_id = any_api.post("/v1/jobs", written(), token=token, headers=headers).json()["id"]
    assert any_api.call("DELETE", "/v1/people/ann").status_code == 204
    assert any_api.get("/v1/session", token=token).status_code == 401
    assert any_api.get(f"/v1/jobs/{job_id}").json()["user"] == "ann"
    named = _count_rows_of(any_api, "ann")
    # The waiting job keeps its place in the queue.
    assert named == {"jobs": 1, "job_events": 1, "queue_points": 1}


def test_a_removed_person_takes_ended_jobs_searches_and_studies_along(any_api: Api) -> None:
    token = any_api.add_person("ann")
    core = any_api.core
    finished = core.run(user="ann")
    core.finish(finished.attempt_id)
    core.release(finished)
    core.submit(user="ann", start_from=None, hold=True)
    any_api.post("/v1/searches", search_body(), token=token)
    any_api.post("/v1/studies", {"definition": definition(), "scale": "smoke"}, token=token)
    others = core.submit(user="bob")
    refused = any_api.call("DELETE", "/v1/people/ann?jobs=delete")
    assert refused.status_code == 409
    assert "cancel it first" in refused.json()["detail"]
    assert "ann" in _names(any_api)
    for kind in ("jobs", "searches"):
        for row in any_api.get(f"/v1/{kind}").json()[kind]:
            if row["id"] not in {others, job_id_of(finished)}:
                any_api.post(f"/v1/{kind}/{row['id']}/cancel")
    assert any_api.call("DELETE", "/v1/people/ann?jobs=delete").status_code == 204
    assert _count_rows_of(any_api, "ann") == {}
    assert [job["id"] for job in any_api.get("/v1/jobs").json()["jobs"]] == [others]


def _count_rows_of(api: Api, user: str) -> dict[str, int]:
    counts = {}
    with api.core.database.reading() as session:
        for table in Base.metadata.sorted_tables:
            if table is AuditRow.__table__:
                continue
            columns = [table.c[name] for name in ("user", "name") if name in table.c]
            for column in columns:
                rows = session.execute(table.select().where(column == user)).all()
                if rows:
                    counts[table.name] = len(rows)
    return counts


def test_a_token_is_shown_once_and_works_until_it_is_revoked(any_api: Api) -> None:
    created = _create_token(any_api)
    secret = created.pop("secret")
    assert any_api.get("/v1/session", token=secret).json()["user"] == "admin"
    listed = {token["label"]: token for token in any_api.get("/v1/tokens").json()["tokens"]}
    assert listed.keys() == {"token file", "laptop"}
    assert listed["laptop"] | {"last_used_at": None} == created
    assert secret not in any_api.get("/v1/tokens").text
    assert any_api.call("DELETE", f"/v1/tokens/{created['id']}").status_code == 204
    assert any_api.get("/v1/session", token=secret).status_code == 401


def test_a_rotated_token_has_another_secret(any_api: Api) -> None:
    created = _create_token(any_api, scope="read", tag="nightly")
    rotated = any_api.post(f"/v1/tokens/{created['id']}/rotate").json()
    assert rotated | {"secret": ""} == created | {"secret": ""}
    assert any_api.get("/v1/session", token=created["secret"]).status_code == 401
    session = any_api.get("/v1/session", token=rotated["secret"]).json()
    assert (session["scope"], session["tag"]) == ("read", "nightly")


def test_an_admin_manages_tokens_of_others_and_a_member_only_his_own(any_api: Api) -> None:
    token = any_api.add_person("ann")
    any_api.add_person("bob")
    created = _create_token(any_api, "?user=ann")
    assert created["user"] == "ann"
    for query in ("", "?user=ann"):
        own = any_api.get(f"/v1/tokens{query}", token=token).json()["tokens"]
        assert [row["user"] for row in own] == ["ann", "ann"]
    for method in ("GET", "POST"):
        refused = any_api.call(
            method, "/v1/tokens?user=bob", token=token, json={"label": "x", "scope": "full"}
        )
        assert refused.status_code == 403
        assert refused.json()["detail"] == "only bob or an admin may do this; ann is a member"
    (of_bob,) = any_api.get("/v1/tokens?user=bob").json()["tokens"]
    for method, path in (("DELETE", ""), ("POST", "/rotate")):
        hidden = any_api.call(method, f"/v1/tokens/{of_bob['id']}{path}", token=token)
        assert hidden.status_code == 404
    assert any_api.get("/v1/tokens?user=unknown").status_code == 404


def test_a_token_that_has_expired_says_so(any_api: Api) -> None:
    expires_at = (any_api.core.clock.now + timedelta(hours=1)).strftime(RFC_3339)
    secret = _create_token(any_api, expires_at=expires_at)["secret"]
    assert any_api.get("/v1/session", token=secret).json()["expires_at"] == expires_at
    any_api.core.clock.advance(3600)
    refused = any_api.get("/v1/session", token=secret)
    assert refused.json()["detail"] == "the token expired at 2026-11-21 13:00 UTC"
    past = any_api.post("/v1/tokens", {"label": "x", "expires_at": expires_at})
    assert past.json()["errors"][0] == {
        "location": "body",
        "pointer": "/expires_at",
        "message": "must be in the future",
    }


def test_the_label_of_the_token_file_is_reserved(any_api: Api) -> None:
    """The API replaces the token with this label when it starts."""
    refused = any_api.post("/v1/tokens", {"label": "token file"})
    assert refused.json()["errors"][0]["pointer"] == "/label"


def test_the_use_of_a_token_is_recorded_at_most_once_a_minute(any_api: Api) -> None:
    secret = any_api.add_person("ann")

    def used_at() -> str | None:
        (token,) = any_api.get("/v1/tokens?user=ann").json()["tokens"]
        found: str | None = token["last_used_at"]
        return found

    assert used_at() is None
    first = any_api.core.clock.now
    any_api.get("/v1/session", token=secret)
    eventually(lambda: used_at() == first.strftime(RFC_3339))
    any_api.core.clock.advance(59)
    any_api.get("/v1/session", token=secret)
    any_api.core.clock.advance(1)
    any_api.get("/v1/session", token=secret)
    expected = (first + timedelta(seconds=60)).strftime(RFC_3339)
    eventually(lambda: used_at() == expected)
    (ann,) = (row for row in any_api.get("/v1/people").json()["people"] if row["name"] == "ann")
    assert (ann["tokens"], ann["last_used_at"]) == (1, expected)
