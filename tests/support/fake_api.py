"""A fake of the API for training processes, with faults that a test injects."""

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from service.catalog import dataset_archive
from service.ids import new_id
from service.specs.job_spec import JobSpec, parse_job_spec
from service.specs.protocol import (
    AttemptAssignment,
    AttemptConfig,
    AttemptDataset,
    CheckpointManifest,
    FinishAttemptRequest,
    LogLine,
    MetricPoint,
    NextAttemptRequest,
    NextAttemptResponse,
    PartDigest,
    Report,
    ReportResponse,
    ResumeCheckpoint,
    UploadedImages,
)
from service.states import CheckpointPart, StopReason
from workers.cluster.process_settings import AttemptSettings

TOKEN = "rnt_attempt"  # opens this fake only
# Unique: the launcher's socket is named after it, and two test runs may share a machine.
RUNNER_ID = new_id(datetime.now(UTC))


class Fault(StrEnum):
    UNAVAILABLE = "503"
    HANGING = "hangs until it recovers"
    LOSING_RESPONSES = "handles requests, sends no response"
    STALE = "409 stale-attempt"
    PROXY_ERROR = "404 of a proxy"
    CORRUPTING = "422 corrupt-artifact, for parts only; uploads that differ"
    REJECTING_REPORTS = "422 invalid-input, for reports with points"
    CORRUPTING_REPORTS = "422 corrupt-artifact, for reports with points"


_REPORT_REJECTIONS = {
    Fault.REJECTING_REPORTS: "invalid-input",
    Fault.CORRUPTING_REPORTS: "corrupt-artifact",
}


def config_of(spec: JobSpec, *, attempt_id: str = "job1-a1") -> AttemptConfig:
    return AttemptConfig(
        attempt_id=attempt_id,
        job_id="job1",
        number=1,
        spec=spec,
        num_workers=spec.resources.num_workers,
        cpus_per_worker=spec.resources.cpus_per_worker,
        gpus_per_worker=spec.resources.gpus_per_worker or 0,
        last_sequence=0,
        resume=None,
    )


def settings_of(api: "FakeApi", path: Path, *, delivery_seconds: float = 20.0) -> AttemptSettings:
    """Settings of the fake's attempt; it writes below `path` only."""
    return AttemptSettings(
        api_url=api.url,
        attempt_id=api.attempt.attempt_id,
        token=TOKEN,
        data_dir=path / "data",
        work_dir=path / "work",
        delivery_seconds=delivery_seconds,
    )


def digits_config(*, iterations: int = 4, num_workers: int = 1) -> AttemptConfig:
    return config_of(
        parse_job_spec(
            {
                "depth": 8,
                "shortcut": "A",
                "dataset": "digits",
                "recipe": {
                    "name": "quick",
                    "iterations": iterations,
                    "batch_size": 16,
                    "evaluate_every": 10,
                    "checkpoint_every": 10,
                },
                "resources": {"num_workers": num_workers},
            }
        )
    )


class FakeApi:
    """What it received, and how it responds. For one attempt.

    A runner receives the attempt until it has finished it `rounds` times, then `final_config`, if
    set, and is dismissed.
    """

    def __init__(self, config: AttemptConfig) -> None:
        self.attempt = config
        self.fault: Fault | None = None
        self.rejection: tuple[HTTPStatus, str] | None = None
        self.stop: StopReason | None = None
        self.reports: list[Report] = []
        self.parts: dict[tuple[int, CheckpointPart], bytes] = {}
        self.uploads: list[tuple[int, CheckpointPart]] = []
        self.resume_parts: dict[CheckpointPart, bytes] = {}
        # The folder of the job's dataset, if it was uploaded, and how often it was sent.
        self.upload: Path | None = None
        self.sent_uploads = 0
        self.finishes: list[FinishAttemptRequest] = []
        self.violations: list[str] = []
        self.rounds = 1
        self.final_config: AttemptConfig | None = None
        self.is_assigned = False
        self._rounds_done = 0
        self.requests = 0
        self._lock = threading.Lock()
        self._recovered = threading.Event()
        self._server: _Server | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def last_sequence(self) -> int:
        return self.reports[-1].sequence if self.reports else 0

    @property
    def points(self) -> list[MetricPoint]:
        return [point for report in self.reports for point in report.metrics]

    @property
    def lines(self) -> list[LogLine]:
        return [line for report in self.reports for line in report.logs]

    @property
    def checkpoints(self) -> list[CheckpointManifest]:
        return [manifest for report in self.reports for manifest in report.checkpoints]

    def set_resume_checkpoint(self, *, iteration: int, parts: dict[CheckpointPart, bytes]) -> None:
        self.resume_parts = parts
        digests = [
            PartDigest(
                part=part, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content)
            )
            for part, content in parts.items()
        ]
        resume = ResumeCheckpoint(checkpoint_id="c1", iteration=iteration, parts=digests)
        self.attempt = self.attempt.model_copy(update={"resume": resume})

    def open(self) -> None:
        """Accepts connections."""
        self._server = _Server(("127.0.0.1", self._port), self)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def refuse_connections(self) -> None:
        """Refuses connections and closes the open ones."""
        assert self._server is not None
        self._recovered.set()
        self._server.shutdown()
        self._server.cut_connections()
        self._server.server_close()
        self._server = None
        self._recovered.clear()

    def inject_fault(self, fault: Fault) -> None:
        self.fault = fault

    def recover(self) -> None:
        self.fault = None
        self._recovered.set()
        self._recovered = threading.Event()

    def wait_for_recovery(self) -> None:
        self._recovered.wait(60.0)

    def current_config(self) -> AttemptConfig:
        return self.attempt.model_copy(update={"last_sequence": self.last_sequence})

    def describe_dataset(self) -> AttemptDataset:
        if self.upload is None:
            return AttemptDataset(upload=None)
        sha256 = dataset_archive.hash_archive(self.upload)
        return AttemptDataset(upload=UploadedImages(sha256=sha256, stored_bytes=1))

    def send_upload(self) -> bytes:
        """With Fault.CORRUPTING, a byte of an image differs."""
        assert self.upload is not None
        with self._lock:
            self.sent_uploads += 1
        content = b"".join(dataset_archive.stream_archive(self.upload))
        return content.replace(b"PNG", b"GIF", 1) if self.fault is Fault.CORRUPTING else content

    def store_report(self, report: Report) -> ReportResponse | str:
        """The response, or the code of a conflict."""
        with self._lock:
            if report.sequence > self.last_sequence + 1:
                return "sequence-gap"
            if report.sequence == self.last_sequence + 1:
                for manifest in report.checkpoints:
                    self._check_parts(manifest)
                self.reports.append(report)
            return ReportResponse(last_sequence=self.last_sequence, stop_reason=self.stop)

    def next_attempt(self, request: NextAttemptRequest) -> NextAttemptResponse:
        """Waits for the end of the running attempt before it assigns the next."""
        if request.trained_attempt_id is not None and self.is_assigned:
            self.is_assigned = False
            self._rounds_done += 1
            eventually(lambda: len(self.finishes) >= self._rounds_done)
        if self._rounds_done == self.rounds and self.final_config is not None:
            self.attempt, self.final_config = self.final_config, None
            self.rounds += 1
        if self._rounds_done >= self.rounds or (
            request.is_exiting and len(self.finishes) > self._rounds_done
        ):
            return NextAttemptResponse(assignment=None, should_exit=True)
        self.is_assigned = True
        return NextAttemptResponse(
            assignment=AttemptAssignment(config=self.current_config(), token=TOKEN),
            should_exit=False,
        )

    def store_part(self, iteration: int, part: CheckpointPart, content: bytes) -> None:
        with self._lock:
            self.parts[iteration, part] = content
            self.uploads.append((iteration, part))

    def store_finish(self, finish: FinishAttemptRequest) -> None:
        with self._lock:
            if finish not in self.finishes:
                self.finishes.append(finish)
                # The stop request was for this attempt.
                self.stop = None

    def count(self) -> None:
        with self._lock:
            self.requests += 1

    def _check_parts(self, manifest: CheckpointManifest) -> None:
        for digest in manifest.parts:
            content = self.parts.get((manifest.iteration, digest.part), b"")
            if hashlib.sha256(content).hexdigest() != digest.sha256:
                self.violations.append(f"{manifest.iteration}/{digest.part} is incomplete")


def eventually(
    condition: Callable[[], object], *, within_seconds: float = 20.0, poll_seconds: float = 0.01
) -> None:
    """Returns once `condition` is true; fails after the time limit."""
    deadline = time.monotonic() + within_seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_seconds} s"
        time.sleep(poll_seconds)


@contextmanager
def fake_api(config: AttemptConfig) -> Iterator[FakeApi]:
    api = FakeApi(config)
    api.open()
    try:
        yield api
    finally:
        if api._server is not None:
            api.refuse_connections()


class _Server(ThreadingHTTPServer):
    allow_reuse_address = True
    daemon_threads = False

    def __init__(self, address: tuple[str, int], api: FakeApi) -> None:
        self.api = api
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def cut_connections(self) -> None:
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        """Clients close connections on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_POST(self) -> None:
        self._serve(self._post)

    def do_PUT(self) -> None:
        self._serve(self._put)

    def log_message(self, *_: Any) -> None: ...

    def _serve(self, handle: Callable[[list[str], bytes], None]) -> None:
        api = self.server.api
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        api.count()
        path = self.path.partition("?")[0].removeprefix("/").split("/")
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._respond_error(HTTPStatus.UNAUTHORIZED, "unauthorized")
        elif path == ["v1", "runners", RUNNER_ID, "next"]:
            self._respond(
                HTTPStatus.OK, api.next_attempt(NextAttemptRequest.model_validate_json(content))
            )
        elif path[:3] != ["v1", "attempts", api.attempt.attempt_id]:
            self._respond_error(HTTPStatus.NOT_FOUND, "not-found")
        elif api.rejection is not None:
            self._respond_error(*api.rejection)
        elif api.fault is Fault.UNAVAILABLE:
            self._respond_error(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable")
        elif api.fault is Fault.PROXY_ERROR:
            self._respond(HTTPStatus.NOT_FOUND, b"<h1>nothing here</h1>")
        elif api.fault is Fault.STALE:
            self._respond_error(HTTPStatus.CONFLICT, "stale-attempt")
        elif api.fault is Fault.HANGING:
            api.wait_for_recovery()
            self.close_connection = True
        else:
            handle(path[3:], content)

    def _get(self, path: list[str], _content: bytes) -> None:
        api = self.server.api
        if not path:
            return self._respond(HTTPStatus.OK, api.current_config())
        if path == ["dataset"]:
            return self._respond(HTTPStatus.OK, api.describe_dataset())
        if path == ["dataset", "archive"]:
            return self._respond(HTTPStatus.OK, api.send_upload())
        return self._respond(HTTPStatus.OK, api.resume_parts[CheckpointPart(path[1])])

    def _post(self, path: list[str], content: bytes) -> None:
        api = self.server.api
        if path == ["finish"]:
            api.store_finish(FinishAttemptRequest.model_validate_json(content))
            return self._respond(HTTPStatus.OK, {"job_state": "succeeded"})
        report = Report.model_validate_json(content)
        if api.fault in _REPORT_REJECTIONS and report.metrics:
            code = _REPORT_REJECTIONS[api.fault]
            return self._respond_error(HTTPStatus.UNPROCESSABLE_ENTITY, code)
        response = api.store_report(report)
        if isinstance(response, str):
            return self._respond_error(HTTPStatus.CONFLICT, response)
        return self._respond(HTTPStatus.OK, response)

    def _put(self, path: list[str], content: bytes) -> None:
        api = self.server.api
        is_complete = hashlib.sha256(content).hexdigest() == self.headers["X-Content-SHA256"]
        if api.fault is Fault.CORRUPTING or not is_complete:
            return self._respond_error(HTTPStatus.UNPROCESSABLE_ENTITY, "corrupt-artifact")
        api.store_part(int(path[1]), CheckpointPart(path[2]), content)
        return self._respond(HTTPStatus.CREATED, {})

    def _respond(self, status: HTTPStatus, body: BaseModel | bytes | dict[str, Any]) -> None:
        if self.server.api.fault is Fault.LOSING_RESPONSES:
            self.close_connection = True
            return
        if isinstance(body, BaseModel):
            content = body.model_dump_json().encode()
        else:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _respond_error(self, status: HTTPStatus, code: str) -> None:
        self._respond(status, {"status": int(status), "code": code, "detail": f"injected: {code}"})
