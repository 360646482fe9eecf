"""Who may call which route: each route of the OpenAPI document, by role, owner and scope."""

import re
from datetime import timedelta
from http import HTTPStatus
from typing import Any

from api.access_rules import RULES, SUBJECTS
from service import ids
from service.access.policy import Subject
from service.states import AlertCondition, Role, TokenScope
from service.storage.tables import (
    ModelRow,
    ModelVersionRow,
    SearchRow,
    StudyRow,
    TokenRow,
    WebhookRow,
)
from tests.support.alerts import add_alert
from tests.support.api import Api
from tests.support.contract import DOCUMENT
from tests.support.core import job_id_of, note
from tests.support.rows import MACHINES, Rows
from tests.support.searching import Searching
from tests.support.studies import submit_study

VIEWER, MEMBER, ADMIN = Role.VIEWER, Role.MEMBER, Role.ADMIN
_PRIVATE = ("/v1/webhooks", "/v1/alerts", "/v1/tokens", "/v1/shares")
# What a link reads, if it was shared: what the pages of jobs, comparisons and studies show.
_SHARED = re.compile(
    r"GET /v1/(jobs(/\{job_id\}(/(?!logs|checkpoints/).+)?)?|export|groups|metrics|stream|session"
    r"|studies/\{study_id\}(/(report|export))?|comparisons/\{comparison_id\})|DELETE /v1/session"
)
# Of routes that need one, or have no end without.
_QUERIES = {
    "/v1/export": "?job={job_id}",
    "/v1/metrics": "?job={job_id}",
    "/v1/predictions": "?job={job_id}",
    "/v1/stream": "?read=nothing",
}
# What the job of the rows, or the dashboard of the tests, may not have.
_NOT_MADE = ("/analysis", "/confusion", "/export", "/result-card")
_PUBLIC = {"GET /v1/health", "POST /v1/session"}
# What is not secret, and what has only jobs.
_OF_JOBS = (
    *("jobs", "export", "groups", "metrics", "predictions", "stream", "queue", "session"),
    *("datasets", "recipes", "cluster", "runners", "signing-key", "quotas"),
)
OPERATIONS = [
    f"{method.upper()} {path}"
    for path, operations in DOCUMENT["paths"].items()
    for method in operations
    if f"{method.upper()} {path}" not in _PUBLIC and not path.startswith(MACHINES)
]


def _least_role(label: str) -> Role:
    """By the words of the route, and not by the table."""
    method, path = label.split()
    if path.startswith(("/v1/people", "/v1/audit")) or "/quotas/" in path:
        return ADMIN
    if label in {"PUT /v1/fair-share", "GET /metrics"}:
        return ADMIN
    is_read = method in {"GET", "HEAD"} or path.endswith((":plan", "/predictions"))
    return VIEWER if is_read or path.startswith(("/v1/session", "/v1/tokens")) else MEMBER


def _least_scope(label: str) -> TokenScope:
    path = label.split()[1]
    if path.startswith(("/v1/people", "/v1/tokens", "/v1/audit", "/v1/quotas/")):
        return TokenScope.FULL
    if label == "PUT /v1/fair-share":
        return TokenScope.FULL
    if _SHARED.fullmatch(label):
        return TokenScope.SHARED
    if _least_role(label) is VIEWER:
        return TokenScope.READ
    creates = "{" not in path or path.endswith(("/clone", "/confirm"))
    return (
        TokenScope.SUBMIT
        if creates and path not in {"/v1/webhooks", "/v1/alerts", "/v1/shares"}
        else TokenScope.FULL
    )


def _needs_owner(label: str) -> bool:
    method, path = label.split()
    if "{" not in path or path.startswith(("/v1/people", "/v1/quotas", "/v1/datasets")):
        return False
    is_copied = path.endswith(("/clone", "/confirm", "/predictions"))
    return path.startswith(_PRIVATE) or not (method in {"GET", "HEAD"} or is_copied)


def test_every_route_has_a_rule_and_every_rule_a_route() -> None:
    assert set(RULES) == set(OPERATIONS)


class _World:
    """People of each role with their tokens, and rows that belong to one of them."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.tokens = {role: api.add_person(f"the-{role}", role) for role in Role}
        self.tokens_of_scopes = {
            scope: api.add_person("the-member", scope=scope) for scope in TokenScope
        }
        self.tag_token = api.add_person("the-member", tag="nightly")
        api.add_person("other")
        self._version = self._register()
        search_id, study_id = Searching(api.core).submit(), submit_study(api.core)
        with api.core.database.reading() as session:
            self._templates = {
                Subject.SEARCH: session.get_one(SearchRow, search_id),
                Subject.STUDY: session.get_one(StudyRow, study_id),
            }

    def _register(self) -> dict[str, Any]:
        """The columns of a version of a model, whose job has a checkpoint."""
        running = self.api.core.run()
        self.api.core.report(running.attempt_id, 2, checkpoints=[note(20)])
        new = {"name": "model", "job": job_id_of(running)}
        model_id = self.api.post("/v1/models", new).json()["model_id"]
        with self.api.core.database.reading() as session:
            row = session.get_one(ModelVersionRow, (model_id, 1))
            names = [column.key for column in ModelVersionRow.__table__.columns]
            return {name: getattr(row, name) for name in names}

    def make(self, subject: Subject, owner: str) -> str:
        """The id of a new row."""
        core = self.api.core
        if subject is Subject.JOB:
            return core.submit(user=owner, tags=["nightly"])
        if subject is Subject.ALERT:
            return add_alert(core, AlertCondition.FAILED, user=owner)
        core.clock.now += timedelta(microseconds=1)
        now, row_id = core.clock.now, ids.new_id(core.clock.now)
        row: Any
        if subject is Subject.WEBHOOK:
            row = WebhookRow(url="https://example.org/", secret="s", states=[], created_at=now)
        elif subject is Subject.MODEL:
            row = ModelRow(name=row_id, created_at=now)
        elif subject in {Subject.TOKEN, Subject.SHARE}:
            scope = TokenScope.FULL if subject is Subject.TOKEN else TokenScope.SHARED
            row = TokenRow(label="x", scope=scope, created_at=now, token_sha256=row_id)
        else:
            template = self._templates[subject]
            columns = {column.key for column in template.__table__.columns}
            row = type(template)(**{name: getattr(template, name) for name in columns})
        row.id, row.user = row_id, owner
        with core.database.transaction() as session:
            session.add(row)
            if subject is Subject.MODEL:
                session.flush()
                session.add(ModelVersionRow(**self._version | {"model_id": row_id}))
        return row_id

    def call(self, label: str, token: str, *, owner: str) -> int:
        """The status of a call that has no body: 422 is as good as success."""
        method, path = label.split()
        for name, subject in SUBJECTS.items():
            if f"{{{name}}}" in path:
                path = path.replace(f"{{{name}}}", self.make(subject, owner))
        path = (
            path.replace("{checkpoint}", "newest")
            .replace("{name}", "unknown")
            .replace("{dataset}", "folder:unknown")
            .replace("{version}", "1")
            .replace("{alias}", "production")
        )
        path = path.replace("{key}", "user:unknown")
        return self.api.call(method, path, token=token).status_code


def test_a_role_permits_what_its_routes_say(api: Api) -> None:
    world = _World(api)
    wrong = []
    for label in OPERATIONS:
        is_private = label.split()[1].startswith(_PRIVATE)
        for role in Role:
            is_refused = not role.includes(_least_role(label))
            for owner in ("other", f"the-{role}"):
                status = world.call(label, world.tokens[role], owner=owner)
                if is_refused:
                    expected = 403
                elif owner == "other" and role is not ADMIN and _needs_owner(label):
                    expected = 404 if is_private else 403
                else:
                    expected = None
                if not _is_as_expected(status, expected):
                    wrong.append((label, role, owner, expected, status))
                if is_refused or "{" not in label:
                    break  # it does not depend on the owner
    assert wrong == []


def test_a_member_who_sees_what_is_his_reaches_nothing_else(own_api: Api) -> None:
    world = _World(own_api)
    wrong = []
    for label in OPERATIONS:
        for owner in ("other", "the-member") if "{" in label else ():
            status = world.call(label, world.tokens[MEMBER], owner=owner)
            expected = 404 if owner == "other" else None
            if "/people" in label or "/quotas" in label:
                expected = 403
            if not _is_as_expected(status, expected):
                wrong.append((label, owner, expected, status))
    assert wrong == []


def _is_as_expected(status: int, expected: int | None) -> bool:
    """None: not refused; with the rows as they are, 404, 409 or 422 is as good as success."""
    if expected is None:
        return status not in {401, 403} and status < HTTPStatus.INTERNAL_SERVER_ERROR
    return status == expected


def test_a_scope_permits_what_its_routes_say(api: Api) -> None:
    world = _World(api)
    wrong = []
    for label in OPERATIONS:
        for scope in TokenScope:
            if not MEMBER.includes(_least_role(label)):
                continue
            is_permitted = scope.includes(_least_scope(label))
            status = world.call(label, world.tokens_of_scopes[scope], owner="the-member")
            if (status != 403) != is_permitted or status in {401, 500}:
                wrong.append((label, scope, status))
    assert wrong == []


def test_every_route_answers_a_link_by_its_rule(api: Api) -> None:
    """What was shared is read, what was not does not exist, and all else is refused."""
    rows = Rows(api)
    study_routes = ("{study_id}", "{comparison_id}")
    wrong = []
    for path, operations in DOCUMENT["paths"].items():
        for method in map(str.upper, operations):
            label = f"{method} {path}"
            # The second ends the sign-in of a browser.
            if label in {*_PUBLIC, "DELETE /v1/session"}:
                continue
            is_of_study = any(name in path for name in study_routes)
            for is_own in (True, False):
                link = rows.comparison_link if is_of_study is is_own else rows.job_link
                query = _QUERIES.get(path, "").format(**rows.in_path)
                answer = api.call(method, rows.fill(path) + query, token=link)
                if path.startswith(MACHINES):
                    expected = {401}
                elif not _SHARED.fullmatch(label):
                    expected = {403}
                elif path == "/v1/stream":
                    expected = {422}
                elif is_own or not ("{" in path or "job=" in query):
                    expected = {200, 404, 409} if path.endswith(_NOT_MADE) else {200}
                else:
                    expected = {404}
                if answer.status_code not in expected:
                    wrong.append((label, is_own, answer.status_code, answer.text[:200]))
    assert wrong == []


def test_a_token_of_a_tag_concerns_jobs_only(api: Api) -> None:
    world = _World(api)
    reached = {
        label
        for label in OPERATIONS
        if world.call(label, world.tag_token, owner="the-member") != 403
    }
    assert all(
        label.split()[1].startswith(tuple(f"/v1/{name}" for name in _OF_JOBS)) for label in reached
    )
    assert {"POST /v1/jobs", "POST /v1/jobs/{job_id}/cancel"} <= reached


def test_a_refusal_says_what_is_missing(api: Api) -> None:
    job_id = api.core.submit(user="bob")
    api.add_person("bob")
    viewer, member = api.add_person("vera", VIEWER), api.add_person("ann")
    reader = api.add_person("ann", scope=TokenScope.READ)
    nightly = api.add_person("ann", tag="nightly")
    path = f"/v1/jobs/{job_id}/cancel"
    details = [api.post(path, token=token).json()["detail"] for token in (viewer, member, reader)]
    assert details == [
        "needs the role member; vera is a viewer",
        f"only bob, who owns job {job_id}, or an admin may do this; ann is a member",
        "needs a token with the scope full; this one has read",
    ]
    refused = api.get("/v1/searches", token=nightly)
    assert refused.json()["detail"] == "the token is limited to jobs with the tag 'nightly'"
    refused = api.call("DELETE", "/v1/people/bob", token=member)
    assert refused.json()["detail"] == "needs the role admin; ann is a member"
