"""The audit log, and who caused the events of jobs and searches."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Executable, delete, text, update
from sqlalchemy.exc import DBAPIError

from api import refused_credentials
from service.access import audit
from service.states import AuditKind, Role
from service.storage.database import Database
from service.storage.tables import AuditRow
from tests.support.api import TOKEN, Api, serving_new
from tests.support.core import START, job_id_of
from tests.support.fake_api import eventually
from tests.support.searching import Searching
from tests.support.studies import submit_study

OWN_PAGE = {"X-Requested-With": "tests"}


@pytest.fixture
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """With a log of its own, which cannot be emptied."""
    path = tmp_path_factory.mktemp("audited")
    with serving_new(f"sqlite:///{path / 'api.db'}", path) as served:
        yield served


def _entries(api: Api, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get(f"/v1/audit{query}").json()["entries"]
    return found


def _sign_in(api: Api, token: str) -> None:
    api.call("POST", "/v1/session", token=None, json={"token": token}, headers=OWN_PAGE)
    api.http.cookies.clear()


def test_people_tokens_sign_ins_and_deletions_are_recorded_with_who_did_it(audited: Api) -> None:
    root = audited.add_person("root", Role.ADMIN)
    core = audited.core

    def call(method: str, path: str, **request: Any) -> Any:
        core.clock.advance(1)
        answer = audited.call(method, path, token=root, **request)
        assert answer.status_code < 300, answer.text
        return answer

    _sign_in(audited, root)
    call("POST", "/v1/people", json={"name": "ann"})
    call("PATCH", "/v1/people/ann", json={"role": "viewer"})
    token_id = call("POST", "/v1/tokens?user=ann", json={"label": "laptop"}).json()["id"]
    call("POST", f"/v1/tokens/{token_id}/rotate")
    call("DELETE", f"/v1/tokens/{token_id}")
    job_id, study_id = core.submit(user="ann"), submit_study(core)
    search_id = Searching(core).submit()
    for path in (f"/v1/jobs/{job_id}", f"/v1/searches/{search_id}"):
        call("POST", f"{path}/cancel")
        call("DELETE", path)
    call("DELETE", f"/v1/studies/{study_id}")
    call("DELETE", "/v1/people/ann")
    entries = _entries(audited, "?user=root")
    assert [(entry["kind"], entry["subject"]) for entry in reversed(entries)] == [
        ("sign-in", "root"),
        ("person-added", "ann"),
        ("role-changed", "ann"),
        ("token-created", token_id),
        ("token-rotated", token_id),
        ("token-revoked", token_id),
        ("job-deleted", job_id),
        ("search-deleted", search_id),
        ("study-deleted", study_id),
        ("person-removed", "ann"),
    ]
    assert {entry["user"] for entry in entries} == {"root"}
    assert entries[3]["data"] == {"owner": "ann"}
    (first,) = _entries(audited, "?kind=role-changed")
    assert first["data"] == {"role": "viewer"}


def test_the_log_comes_in_pages(audited: Api) -> None:
    for _ in range(3):
        audited.core.clock.advance(1)
        _sign_in(audited, TOKEN)
    page = audited.get("/v1/audit?limit=2").json()
    rest = audited.get(f"/v1/audit?limit=2&page_token={page['next_page_token']}").json()
    assert (len(page["entries"]), len(rest["entries"])) == (2, 1)
    assert rest["next_page_token"] is None


def test_failed_sign_ins_and_wrong_tokens_are_counted_in_one_entry_an_interval(
    audited: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refused_credentials, "INTERVAL_SECONDS", 0.05)
    for _ in range(5):
        _sign_in(audited, "x" * 43)
    for _ in range(3):
        assert audited.get("/v1/jobs", token="x" * 43).status_code == 401
    assert audited.get("/v1/jobs", token=None).status_code == 401, "no token is no wrong one"
    eventually(
        lambda: (_count(audited, "sign-in-failed"), _count(audited, "token-refused")) == (5, 3)
    )
    for entry in _entries(audited):
        assert entry["user"] is None
        assert entry["data"]["addresses"] == {"127.0.0.1": entry["data"]["count"]}


def _count(api: Api, kind: str) -> int:
    return sum(entry["data"]["count"] for entry in _entries(api, f"?kind={kind}"))


def test_the_database_refuses_to_change_or_delete_an_entry(database: Database) -> None:
    with database.transaction() as session:
        audit.record(session, AuditKind.SIGN_IN, "ann", now=START)
    statements: list[Executable] = [update(AuditRow).values(subject="bob"), delete(AuditRow)]
    replace = (
        "INSERT OR REPLACE INTO audit_log SELECT id, at, kind, user, 'bob', data FROM audit_log"
    )
    statements.append(text(replace if database.is_sqlite else "TRUNCATE audit_log"))
    for statement in statements:
        with (
            pytest.raises(DBAPIError, match="append-only"),
            database.transaction() as session,
        ):
            session.execute(statement)


def test_an_event_says_who_caused_it(api: Api) -> None:
    token = api.add_person("ann")
    api.core.record_cluster(cpus=4)
    body = {"depth": 8, "shortcut": "A", "dataset": "digits"}
    job_id = api.post("/v1/jobs", body, token=token).json()["id"]
    taken = api.core.start_next()
    assert job_id_of(taken) == job_id
    api.report(taken, 1)
    api.post(f"/v1/jobs/{job_id}/cancel")
    events = api.get(f"/v1/jobs/{job_id}/events").json()["events"]
    seen = {
        event["data"].get("to", event["kind"]): (event["actor"], event["user"]) for event in events
    }
    assert seen["submitted"] == ("person", "ann")
    assert seen["starting"] == ("dispatcher", None)
    assert seen["running"] == ("attempt", None)
    assert seen["stop-requested"] == ("person", "admin")


def test_what_a_driver_does_is_its_searchs(api: Api) -> None:
    searching = Searching(api.core)
    search_id = searching.submit()
    (start,) = searching.start_drivers()
    api.post(f"/v1/drivers/{start.id}/begin", token=start.secret)
    proposal = {"tune_id": "a", "params": {"recipe.learning_rate": 0.1}}
    assigned = api.post(f"/v1/drivers/{start.id}/trials", proposal, token=start.secret)
    assert assigned.status_code == 200, assigned.text
    events = api.get(f"/v1/searches/{search_id}/events").json()["events"]
    assert {event["actor"] for event in events if event["kind"] == "trial"} == {"search"}
