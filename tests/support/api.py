"""The API on its own port, with a real database and a clock that tests move."""

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import delete

from api.__main__ import listen
from api.app import create_app
from api.graceful_server import GracefulServer
from service.access import tokens
from service.execution.ray_job_lifecycle import RayJobSubmission
from service.settings import Settings
from service.specs.protocol import CheckpointManifest
from service.states import CheckpointPart, Role, TokenScope
from service.storage import schema
from service.storage.database import Database
from service.storage.tables import AuditRow, Base, PersonRow, RunnerRow, TokenRow
from tests.support import contract
from tests.support.core import START, Clock, Core, Taken, content
from tests.support.fake_api import eventually

TOKEN = "the-token-of-the-admin"
RFC_3339 = "%Y-%m-%dT%H:%M:%SZ"


class Api:
    """`core` calls the same service without HTTP."""

    def __init__(self, url: str, settings: Settings, core: Core) -> None:
        self.url = url
        self.settings = settings
        self.core = core
        self.http = httpx.Client(
            base_url=url,
            timeout=30.0,
            trust_env=False,
            event_hooks={"response": [contract.check]},
        )

    def empty(self) -> None:
        """Deletes all rows except the admin with the token and the audit log; resets the clock."""
        self.core.clock.now = START
        with self.core.database.transaction() as session:
            for table in reversed(Base.metadata.sorted_tables):
                # Of the audit log nothing can be deleted.
                kept = (PersonRow.__table__, TokenRow.__table__, AuditRow.__table__)
                if table not in kept:
                    session.execute(table.delete())
            session.execute(delete(TokenRow).where(TokenRow.label != tokens.FILE_LABEL))
            session.execute(delete(PersonRow).where(PersonRow.name != tokens.ADMIN))

    def add_person(
        self,
        name: str,
        role: Role = Role.MEMBER,
        *,
        scope: TokenScope = TokenScope.FULL,
        tag: str | None = None,
        group: str | None = None,
    ) -> str:
        """The secret of a new token of a new person."""
        return self.core.add_person(name, role, scope=scope, tag=tag, group=group)

    def call(
        self, method: str, path: str, *, token: str | None = TOKEN, **request: Any
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        headers |= request.pop("headers", {})
        return self.http.request(method, path, headers=headers, **request)

    def list_audit(self, *kinds: str, but: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
        """Entries of these kinds, newest first, without `but`: the log outlives each test.

        Those of one moment are in any order.
        """
        params = {"kind": kinds, "limit": 1000}
        found = self.get("/v1/audit", params=params).json()["entries"]
        return [entry for entry in found if entry not in but]

    def get(self, path: str, **request: Any) -> httpx.Response:
        return self.call("GET", path, **request)

    def post(self, path: str, body: Any = None, **request: Any) -> httpx.Response:
        """Sends `body` as JSON, also with lone surrogates and NaN, which httpx would refuse."""
        return self.call(
            "POST",
            path,
            content=json.dumps(body).encode("ascii"),
            headers={"Content-Type": "application/json"} | request.pop("headers", {}),
            **request,
        )

    def attempt(
        self, claimed: Taken, method: str = "GET", path: str = "", **request: Any
    ) -> httpx.Response:
        """A request of the attempt's processes, with the attempt's token."""
        target = f"/v1/attempts/{claimed.attempt_id}{path}"
        return self.call(method, target, token=claimed.secret, **request)

    def ask(
        self, start: RayJobSubmission[RunnerRow], *, token: str | None = None, **question: Any
    ) -> httpx.Response:
        """The runner's request for its next attempt, by default with the runner's token."""
        path = f"/v1/runners/{start.id}/next"
        return self.post(path, question, token=token or start.secret)

    def report(self, claimed: Taken, sequence: int, **fields: Any) -> httpx.Response:
        body = {"sequence": sequence} | fields
        return self.attempt(claimed, "POST", "/reports", json=body)

    def upload(
        self, claimed: Taken, iteration: int, part: CheckpointPart, *, sha256: str | None = None
    ) -> httpx.Response:
        body = content(part, iteration)
        return self.attempt(
            claimed,
            "PUT",
            f"/checkpoints/{iteration}/{part}",
            content=body,
            headers={"X-Content-SHA256": sha256 or hashlib.sha256(body).hexdigest()},
        )

    def checkpoint(self, claimed: Taken, sequence: int, note: CheckpointManifest) -> httpx.Response:
        """Uploads all parts and reports them."""
        for digest in note.parts:
            assert self.upload(claimed, note.iteration, digest.part).status_code == 201
        return self.report(claimed, sequence, checkpoints=[note.model_dump(mode="json")])

    @contextmanager
    def stream(
        self, name: str, *, of: str = "jobs", **headers: str
    ) -> Iterator[Iterator[dict[str, Any]]]:
        """The events of a job or a search as they arrive: `id`, `event`, decoded `data`."""
        sent = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        with self.http.stream("GET", f"/v1/{of}/{name}/events", headers=sent) as response:
            assert response.headers["Content-Type"].startswith("text/event-stream")
            yield read_events(response.iter_lines())


def read_events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Server-sent events that have data: `id`, `event`, decoded `data`."""
    fields: dict[str, Any] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
            continue
        if "data" in fields:
            yield fields | {"data": json.loads(fields["data"])}
        fields = {}


@contextmanager
def serving_new(database_url: str, var_path: Path, **settings: Any) -> Iterator[Api]:
    """An API with its own Core on a new database."""
    database = Database(database_url)
    schema.upgrade(database)
    with serving(Core(database, Clock()), database_url, var_path, **settings) as served:
        yield served
    database.close()


@contextmanager
def serving(core: Core, database_url: str, var_path: Path, **settings: Any) -> Iterator[Api]:
    (var_path / "token").write_text(TOKEN)
    # Tests are faster than people.
    unlimited = {"requests_per_second": 0, "anonymous_requests_per_second": 0}
    configured = Settings(var_dir=var_path, database_url=database_url, **unlimited | settings)
    app = create_app(configured, now=core.clock)
    server = GracefulServer(app, drain_seconds=0.0, grace_seconds=1, ws="none")
    with (
        listen("127.0.0.1", settings.get("api_port", 0)) as listener,
        pytest.MonkeyPatch.context() as patched,
    ):
        # The listening thread stops after this time at most.
        patched.setattr("api.change_listener.LISTEN_SECONDS", 0.05)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        eventually(lambda: server.started or not thread.is_alive())
        assert server.started, "the API did not start"
        api = Api(f"http://127.0.0.1:{listener.getsockname()[1]}", configured, core)
        try:
            yield api
        finally:
            api.http.close()
            server.should_exit = True
            thread.join()
