"""A service of docs/api.md's shape over real sockets, that can be told to misbehave.

Its state outlives `stop` and `start`: what a database keeps over a restart.
"""

import hashlib
import itertools
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.client import fake_documents, fake_searches, misbehaviour
from tests.client.misbehaviour import WEIGHTS

TOKEN = "a-token-nobody-shows"
FINAL = {"succeeded", "failed", "cancelled"}


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Any


@dataclass
class FakeService:
    """`misbehaviour` holds what happens to the next requests, one each."""

    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    told: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    lines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    misbehaviour: list[Callable[["Handler"], None]] = field(default_factory=list)
    breaks_streams_after: list[int] = field(default_factory=list)
    has_streams: bool = True
    forgets_last_event_id: bool = False
    sent_weights: bytes = WEIGHTS
    suggested_name: str = "resnet-20-A.safetensors"
    page_size: int = 100

    def __post_init__(self) -> None:
        self.changed = threading.Condition()
        self._port = 0
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._server.service = self
        self._port = self._server.server_address[1]
        # The poll interval is how long `stop` takes.
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.005}
        )
        self._thread.start()

    def stop(self) -> None:
        """As a killed process: every connection breaks where it is."""
        assert self._server is not None
        server, self._server = self._server, None
        server.shutdown()
        self._thread.join()
        server.is_stopping = True
        server.break_connections()
        with self.changed:
            self.changed.notify_all()
        server.server_close()

    def add_job(self, job_id: str = "0f3k000000000001", **changes: Any) -> str:
        self.jobs[job_id] = fake_documents.job(job_id) | changes
        self.told[job_id] = []
        self.lines[job_id] = []
        self.happen(job_id, "submitted", {})
        return job_id

    def happen(self, job_id: str, kind: str, data: dict[str, Any]) -> None:
        with self.changed:
            event: dict[str, Any] = {"at": "2026-11-21T12:00:01Z", "kind": kind, "data": data}
            if kind == "progress":
                self.jobs[job_id]["progress"] = data
            else:
                event["number"] = 1 + sum("number" in earlier for earlier in self.told[job_id])
            self.told[job_id].append(event)
            self.changed.notify_all()

    def move(self, job_id: str, state: str, reason: str | None = None, **changes: Any) -> None:
        with self.changed:
            before = self.jobs[job_id]["state"]
            finished = {"finished_at": "2026-11-21T12:10:00Z"} if state in FINAL else {}
            self.jobs[job_id] |= {"state": state, "reason": reason, **finished, **changes}
            self.happen(job_id, "state", {"from": before, "to": state, "reason": reason})

    def progress(self, job_id: str, iteration: int) -> None:
        data = {
            "iteration": iteration,
            "iterations": 600,
            "percent": iteration / 6,
            "images_per_second": 1890.0,
            "eta_seconds": 32.0,
            "metrics": {"train/loss": 0.5, "train/error": 14.0, "test/error": 12.0},
        }
        self.happen(job_id, "progress", data)

    def log(self, job_id: str, message: str) -> None:
        with self.changed:
            number = len(self.lines[job_id]) + 1
            line = {"number": number, "attempt": 1, "at": "2026-11-21T12:00:02Z"}
            self.lines[job_id].append(line | {"level": "info", "message": message})

    def be_unavailable(self, times: int) -> None:
        self.misbehaviour += [misbehaviour.answer_unavailable] * times

    def break_next_answers(self, times: int) -> None:
        """The next requests are carried out, but their answers never arrive."""
        self.misbehaviour += [misbehaviour.carry_out_and_break] * times

    def asked(self, method: str, path: str) -> list[Request]:
        return [one for one in self.requests if (one.method, one.path) == (method, path)]

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Requests, too, wake it."""
        with self.changed:
            assert self.changed.wait_for(is_so, timeout=5)


class _Server(ThreadingHTTPServer):
    service: FakeService
    is_stopping = False
    daemon_threads = False  # server_close joins them
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def break_connections(self) -> None:
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is what the tests are about."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else an answer waits 40 ms for its second half
    server: _Server

    @property
    def service(self) -> FakeService:
        return self.server.service

    def log_message(self, *_: Any) -> None:
        """Not on the tests' standard error."""

    def do_GET(self) -> None:
        self._serve(None)

    def do_DELETE(self) -> None:
        self._serve(None)

    def do_PATCH(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        written = self.rfile.read(length)
        self._serve(json.loads(written) if written else None)

    def _serve(self, body: Any) -> None:
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.request_read = Request(self.command, parts.path, self.query, headers, body)
        with self.service.changed:
            self.service.requests.append(self.request_read)
            self.service.changed.notify_all()
            strange = self.service.misbehaviour.pop(0) if self.service.misbehaviour else None
        if strange is None:
            self.answer()
        else:
            strange(self)

    def answer(self) -> None:
        asked = self.request_read
        if asked.path == "/v1/health":
            self.send({"status": "ok"})
        elif asked.headers.get("authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "unauthorized", "no token that this service knows")
        elif asked.path == "/v1/jobs":
            self._submit(asked.body) if asked.method == "POST" else self._list()
        elif asked.path.startswith("/v1/webhooks"):
            self.send(fake_documents.WEBHOOKS[asked.method, asked.path.rpartition("/")[2]])
        elif asked.path.startswith("/v1/searches"):
            self._answer_for_searches()
        elif asked.path == "/v1/jobs:plan":
            self.send(fake_documents.PLAN | {"spec": asked.body})
        elif asked.path == "/v1/jobs:batch":
            made = [self.service.add_job(f"0f3b{n:012d}") for n, _ in enumerate(asked.body["jobs"])]
            self.send({"jobs": [self.service.jobs[job_id] for job_id in made]}, 201)
        elif match := re.fullmatch(r"/v1/jobs/([^/]+)(?:/(.+))?", asked.path):
            self._answer_for_job(match[1], match[2] or "")
        elif asked.path in fake_documents.FIXED:
            self.send(fake_documents.FIXED[asked.path])
        else:
            self.refuse(404, "not-found", f"nothing is at {asked.path}")

    def _answer_for_searches(self) -> None:
        asked = self.request_read
        query = urlsplit(self.path).query
        try:
            found = fake_searches.answer(asked.method, asked.path, query)
        except KeyError:
            return self.refuse(404, "not-found", "no such search")
        if isinstance(found, str):
            return self.send_bytes(found.encode(), "text/csv")
        return self.send(found, 201 if asked.method == "POST" else 200)

    def send(self, document: Any, status: int = 200, **headers: str) -> None:
        self.send_bytes(json.dumps(document).encode(), "application/json", status, **headers)

    def send_bytes(self, content: bytes, kind: str, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def refuse(self, status: int, code: str, detail: str, *errors: dict[str, str]) -> None:
        problem = {
            "type": "about:blank",
            "title": "No",
            "status": status,
            "code": code,
            "detail": detail,
            "request_id": "r-1",
            "errors": errors,
        }
        self.send_bytes(json.dumps(problem).encode(), "application/problem+json", status)

    def _submit(self, spec: dict[str, Any]) -> None:
        key = self.request_read.headers["idempotency-key"]
        if spec.get("depth") == 33:
            message = "must be 6n+2 for a cifar network; nearest: 32 and 38; received 33"
            fault = {"pointer": "/depth", "message": message}
            recipe = {"pointer": "/recipe/batch_size", "message": "is too small"}
            return self.refuse(422, "invalid-input", "the spec is not valid", fault, recipe)
        if key in self.service.keys:
            return self.send(self.service.jobs[self.service.keys[key]], 201)
        job_id = self.service.add_job(f"0f3k{len(self.service.jobs) + 1:012d}", spec=spec)
        self.service.keys[key] = job_id
        return self.send(self.service.jobs[job_id], 201)

    def _list(self) -> None:
        states = self.query.get("state")
        found = [
            job
            for _, job in sorted(self.service.jobs.items(), reverse=True)
            if (states is None or job["state"] in states)
            and job["id"].startswith(self.query.get("id_prefix", [""])[0])
        ]
        size = min(int(self.query.get("limit", ["100"])[0]), self.service.page_size)
        start = int(self.query.get("page_token", ["0"])[0])
        end = start + size
        token = str(end) if end < len(found) else None
        self.send({"jobs": found[start:end], "next_page_token": token})

    def _answer_for_job(self, job_id: str, rest: str) -> None:
        if job_id not in self.service.jobs:
            self.refuse(404, "not-found", f"no job {job_id}")
        elif match := re.fullmatch(r"checkpoints/([^/]+)/weights", rest):
            self._send_weights(match[1])
        elif rest == "events" and "event-stream" in self.request_read.headers["accept"]:
            self._stream(job_id)
        elif self.request_read.method == "DELETE":
            del self.service.jobs[job_id]
            self.send_bytes(b"", "text/plain", 204)
        elif rest == "cancel":
            self._cancel(job_id)
        elif rest in {"hold", "release", "pause", "resume", "kill"}:
            self.service.move(job_id, fake_documents.STATE_AFTER[rest])
            self.send(self.service.jobs[job_id])
        elif rest == "clone":
            self._submit(self.service.jobs[job_id]["spec"] | self.request_read.body)
        elif self.request_read.method == "PATCH":
            self.send(self.service.jobs[job_id] | self.request_read.body)
        elif rest == "metrics" and self.query.get("format") == ["csv"]:
            self.send_bytes(b"series,iteration,value\ntrain/loss,100,0.5\n", "text/csv")
        else:
            self._read_of_job(job_id, rest)

    def _cancel(self, job_id: str) -> None:
        job = self.service.jobs[job_id]
        if job["state"] in FINAL:
            return self.refuse(409, "illegal-transition", f"job {job_id} is {job['state']} already")
        if job["state"] == "queued":
            self.service.move(job_id, "cancelled", "cancelled")
        else:
            job["stop_requested"] = "cancel"
        return self.send(job, 202)

    def _read_of_job(self, job_id: str, rest: str) -> None:
        job = self.service.jobs[job_id]
        after = int(self.query.get("after", ["0"])[0])
        size = self.service.page_size
        events = [event for event in self.service.told[job_id] if event.get("number", 0) > after]
        lines = [line for line in self.service.lines[job_id] if line["number"] > after]
        answers: dict[str, Any] = {
            "": job,
            "progress": job["progress"],
            "metrics": fake_documents.METRICS,
            "events": {"events": events[:size]},
            "logs": {"lines": lines[:size]},
            "attempts": {"attempts": [fake_documents.ATTEMPT]},
            "checkpoints": {"checkpoints": [fake_documents.CHECKPOINT | {"job_id": job_id}]},
        }
        self.send(answers[rest])

    def _stream(self, job_id: str) -> None:
        if not self.service.has_streams:
            return self.send({"events": []})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        breaks = self.service.breaks_streams_after
        left = breaks.pop(0) if breaks else None
        self._chunk("retry: 1000\n\n: still here\n\n")
        for event in self._new_events(job_id):
            if left == 0:
                # In the middle of an event.
                self._chunk(f"id: {event.get('number', '')}\ndata: {{")
                return self._break()
            left = left and left - 1
            number = f"id: {event['number']}\n" if "number" in event else ""
            # U+2028 is a line's end to str.splitlines, not to an event stream.
            told = event["data"] if event["kind"] == "progress" else event | {"note": "\u2028"}
            data = json.dumps(told, ensure_ascii=False)
            self._chunk(f"{number}event: {event['kind']}\ndata: {data}\n\n")
        self._chunk("")
        return None

    def _new_events(self, job_id: str) -> Iterator[dict[str, Any]]:
        """Those behind Last-Event-ID; of those without a number only what happens from now on."""
        last = int(self.request_read.headers["last-event-id"])
        last = 0 if self.service.forgets_last_event_id else last
        told = self.service.told[job_id]
        position = next((at + 1 for at, event in enumerate(told) if event.get("number") == last), 0)
        if self.service.jobs[job_id]["state"] in FINAL and position >= len(told):
            return
        for at in itertools.count(position):
            with self.service.changed:
                while len(told) <= at and not self.server.is_stopping:
                    self.service.changed.wait()
            if self.server.is_stopping:
                return
            yield told[at]
            if told[at]["kind"] == "state" and told[at]["data"]["to"] in FINAL:
                return

    def _send_weights(self, which: str) -> None:
        if which not in {"best", "newest", fake_documents.CHECKPOINT["id"]}:
            return self.refuse(404, "not-found", f"no checkpoint {which}")
        return self.send_bytes(
            self.service.sent_weights,
            "application/octet-stream",
            ETag=f'"{hashlib.sha256(WEIGHTS).hexdigest()}"',
            Content_Disposition=f'attachment; filename="{self.service.suggested_name}"',
        )

    def _chunk(self, text: str) -> None:
        content = text.encode()
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")

    def _break(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
