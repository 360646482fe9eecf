"""A fake of Ray 2.60's job API: a job runs until it is stopped."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "ray-token"


class FakeHead:
    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.is_broken = False
        self.server = _Server(self)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def end(self, submission_id: str, status: str, message: str) -> None:
        self.jobs[submission_id] |= {"status": status, "message": message}

    def submit(self, request: dict[str, Any]) -> tuple[int, Any]:
        submission_id = request["submission_id"]
        if submission_id in self.jobs:
            return 500, (
                "Traceback (most recent call last):\n...\nRuntimeError: Request failed with status "
                "code 400: Traceback (most recent call last):\n...\nValueError: Job with "
                f"submission_id {submission_id} already exists. Please use a different "
                "submission_id.\n."
            )
        self.jobs[submission_id] = {
            "type": "SUBMISSION",
            "submission_id": submission_id,
            "status": "RUNNING",
            "message": "Job is currently running.",
            "metadata": request["metadata"],
            "runtime_env": request["runtime_env"],
        }
        return 200, {"job_id": submission_id, "submission_id": submission_id}

    def answer(self, method: str, path: str, request: dict[str, Any]) -> tuple[int, Any]:
        if path == "/api/v0/nodes":
            return 200, {"data": {"result": {"result": _NODES}}}
        if path == "/api/jobs/" and method == "POST":
            return self.submit(request)
        if path == "/api/jobs/":
            driver = {"type": "DRIVER", "submission_id": None, "status": "RUNNING"}
            return 200, [*self.jobs.values(), driver]
        submission_id, _, verb = path.removeprefix("/api/jobs/").partition("/")
        if submission_id not in self.jobs:
            return 404, f"Job {submission_id} does not exist"
        return self.answer_of(submission_id, verb or method)

    def answer_of(self, submission_id: str, verb: str) -> tuple[int, Any]:
        is_running = self.jobs[submission_id]["status"] == "RUNNING"
        match verb:
            case "DELETE" if is_running:
                return 500, "RuntimeError: Attempted to delete job, but it is in a non-terminal"
            case "DELETE":
                del self.jobs[submission_id]
                return 200, {"deleted": True}
            case "stop":
                self.end(submission_id, "STOPPED", "Job was intentionally stopped.")
                return 200, {"stopped": is_running}
            case "logs":
                return 200, {"logs": "first line\nlast line\n"}
        return 200, self.jobs[submission_id]


_NODES = [
    {"node_id": "a", "state": "ALIVE", "resources_total": {"CPU": 4.0, "memory": 1e9}},
    {"node_id": "b", "state": "ALIVE", "resources_total": {"CPU": 8.0, "GPU": 2.0}},
    {"node_id": "c", "state": "ALIVE", "resources_total": {"memory": 1e9}},
    {"node_id": "d", "state": "DEAD", "resources_total": {"CPU": 64.0}},
]


@contextmanager
def fake_head() -> Iterator[FakeHead]:
    head = FakeHead()
    thread = threading.Thread(target=head.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield head
    finally:
        head.server.shutdown()
        head.server.server_close()


class _Server(ThreadingHTTPServer):
    def __init__(self, head: FakeHead) -> None:
        self.head = head
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        head = self.server.head
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status: int
        body: Any
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            status, body = 401, "Unauthorized: Missing authentication token"
        elif head.is_broken:
            status, body = 200, "<h1>a page</h1>"
        else:
            path = self.path.partition("?")[0]
            status, body = head.answer(self.command, path, json.loads(content or "{}"))
        encoded = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(HTTPStatus(status))
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, *_: Any) -> None: ...
