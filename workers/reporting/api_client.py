"""HTTP clients of the API for the processes in the cluster: attempts, runners, drivers."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TypeVar

import httpx
import structlog
from pydantic import BaseModel, ValidationError

from service import errors
from service.catalog import dataset_archive
from service.specs.protocol import (
    AttemptConfig,
    AttemptDataset,
    FinishAttemptRequest,
    NextAttemptRequest,
    NextAttemptResponse,
    PartDigest,
    Report,
    ReportResponse,
    UploadedImages,
)
from service.states import JobState

Model = TypeVar("Model", bound=BaseModel)

log = structlog.get_logger()

_CHUNK_BYTES = 1 << 20
_CONNECT_SECONDS = 5.0
# The API answers a report in milliseconds; it hashes a part and may write it to a remote store.
REPORT_SECONDS = 10.0
_PART_SECONDS = 120.0

# Responses with these statuses do not refuse the request: the same request may succeed later.
_RETRIED_STATUSES = {408, 425, 429}


class _FinishedJob(BaseModel):
    job_state: JobState


class AttemptClient:
    """The API for one attempt: configuration, reports, checkpoints, end. Thread-safe.

    Each call raises ApiUnavailable if the same call may succeed later: no response, a 5xx, or a
    response without a problem code, which a proxy sent. It raises StaleAttempt or Unauthorized
    if the attempt has ended, and for any other problem code the error of service.errors.
    """

    def __init__(
        self,
        *,
        api_url: str,
        attempt_id: str,
        token: str,
        report_seconds: float = REPORT_SECONDS,
        part_seconds: float = _PART_SECONDS,
    ) -> None:
        self._http = httpx.Client(
            base_url=api_url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(report_seconds, connect=_CONNECT_SECONDS),
            # A cluster reaches its API directly; proxies of the environment are for other hosts.
            trust_env=False,
        )
        self._path = f"/v1/attempts/{attempt_id}"
        self._part_timeout = httpx.Timeout(part_seconds, connect=_CONNECT_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def fetch_config(self) -> AttemptConfig:
        return _parse(AttemptConfig, self._send("GET", ""))

    def report(self, report: Report) -> ReportResponse:
        return _parse(
            ReportResponse, self._send("POST", "/reports", content=report.model_dump_json())
        )

    def upload(self, *, iteration: int, digest: PartDigest, path: Path) -> None:
        """Raises OSError if the file cannot be read."""
        self._send(
            "PUT",
            f"/checkpoints/{iteration}/{digest.part}",
            content=_chunks(path),
            headers={
                "Content-Type": "application/octet-stream",
                # Without it, httpx uses chunked transfer encoding.
                "Content-Length": str(path.stat().st_size),
                "X-Content-SHA256": digest.sha256,
            },
            timeout=self._part_timeout,
        )

    def download(self, digest: PartDigest, path: Path, *, position: int | None = None) -> None:
        """Writes a part of the checkpoint to resume from. CorruptArtifact if its bytes differ.

        `position`: of one of the other checkpoints of an analysis instead.
        """
        checkpoint = "resume" if position is None else f"others/{position}"
        url_path = f"{self._path}/{checkpoint}/{digest.part}"
        partial = path.with_suffix(".partial")
        with _transport_errors():
            sha256 = self._download_directly(f"{url_path}?redirect=true", partial)
            if sha256 is None:
                sha256 = self._download(self._http, url_path, partial)
        if sha256 != digest.sha256:
            partial.unlink()
            raise errors.CorruptArtifact(
                f"part {digest.part} has the SHA-256 {sha256}, not {digest.sha256}"
            )
        partial.replace(path)

    def _download_directly(self, url_path: str, path: Path) -> str | None:
        """As `_download`. None where the bucket, to which the API redirects, is not readable."""
        with self._http.stream("GET", url_path, timeout=self._part_timeout) as response:
            if response.status_code != httpx.codes.TEMPORARY_REDIRECT:
                return _receive(response, path)
            url = response.headers["Location"]
        # The bucket refuses a request with our token, and its proxy is that of the environment.
        with httpx.Client() as bucket:
            try:
                return self._download(bucket, url, path)
            except (httpx.HTTPError, errors.ResnetdError) as error:
                log.warning("bucket not readable, the API is used", error=str(error))
                return None

    def _download(self, http: httpx.Client, url: str, path: Path) -> str:
        """Returns the SHA-256 of the bytes."""
        with http.stream("GET", url, timeout=self._part_timeout) as response:
            return _receive(response, path)

    def describe_dataset(self) -> AttemptDataset:
        return _parse(AttemptDataset, self._send("GET", "/dataset"))

    def download_dataset(self, upload: UploadedImages, folder: Path) -> None:
        """Writes the images of the job's dataset to a new folder. CorruptArtifact if they differ.

        The folder remains if the call raises an error.
        """
        url_path = f"{self._path}/dataset/archive"
        with (
            _transport_errors(),
            self._http.stream("GET", url_path, timeout=self._part_timeout) as response,
        ):
            if not response.is_success:
                response.read()
                raise _error_of(response)
            dataset_archive.unpack_archive(
                response.iter_bytes(_CHUNK_BYTES), folder, sha256=upload.sha256
            )

    def finish(self, finish: FinishAttemptRequest) -> JobState:
        response = self._send("POST", "/finish", content=finish.model_dump_json())
        return _parse(_FinishedJob, response).job_state

    def _send(
        self,
        method: str,
        path: str,
        *,
        content: str | Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
        timeout: httpx.Timeout | None = None,
    ) -> httpx.Response:
        with _transport_errors():
            response = self._http.request(
                method,
                f"{self._path}{path}",
                content=content,
                headers=headers or {"Content-Type": "application/json"},
                timeout=timeout or self._http.timeout,
            )
        if not response.is_success:
            raise _error_of(response)
        return response


class LongPollClient:
    """Requests that the API may answer late. Thread-safe. Raises as AttemptClient does."""

    def __init__(self, base_url: str, *, token: str) -> None:
        self._http = httpx.Client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def _post(
        self, model: type[Model], path: str, body: BaseModel | None = None, *, seconds: float = 0.0
    ) -> Model:
        """Waits up to `seconds` longer than for other responses."""
        timeout = httpx.Timeout(seconds + REPORT_SECONDS, connect=_CONNECT_SECONDS)
        with _transport_errors():
            response = self._http.post(
                path, content=body.model_dump_json() if body is not None else "{}", timeout=timeout
            )
        if not response.is_success:
            raise _error_of(response)
        return _parse(model, response)


class RunnerClient(LongPollClient):
    """The API for one runner."""

    def __init__(self, *, api_url: str, runner_id: str, token: str) -> None:
        super().__init__(f"{api_url}/v1/runners/{runner_id}", token=token)

    def next_attempt(self, request: NextAttemptRequest) -> NextAttemptResponse:
        """Waits up to `request.wait_seconds`."""
        return self._post(NextAttemptResponse, "/next", request, seconds=request.wait_seconds)


def _receive(response: httpx.Response, path: Path) -> str:
    """Writes the bytes and returns their SHA-256. Raises the error of a response that is one."""
    if not response.is_success:
        response.read()
        raise _error_of(response)
    sha256 = hashlib.sha256()
    with path.open("wb") as file:
        for chunk in response.iter_bytes(_CHUNK_BYTES):
            sha256.update(chunk)
            file.write(chunk)
    return sha256.hexdigest()


@contextmanager
def _transport_errors() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise errors.ApiUnavailable(f"{type(error).__name__}: {error}") from error


def _error_of(response: httpx.Response) -> errors.ResnetdError:
    code, detail = _read_problem(response)
    request, status = response.request, response.status_code
    message = f"{request.method} {request.url.path} returned {status}: {detail}"
    if status == httpx.codes.UNAUTHORIZED:
        return errors.Unauthorized(message)
    if status == httpx.codes.FORBIDDEN:
        return errors.Forbidden(message)
    if response.is_server_error or status in _RETRIED_STATUSES or not code:
        return errors.ApiUnavailable(message)
    return errors.BY_CODE.get(code, errors.Refused)(message)


def _read_problem(response: httpx.Response) -> tuple[str, str]:
    """Code and detail of an RFC 9457 response; an empty code if it is none."""
    try:
        problem = response.json()
    except ValueError:
        return "", response.text[:500]
    if not isinstance(problem, dict):
        return "", response.text[:500]
    return str(problem.get("code", "")), str(problem.get("detail", ""))[:500]


def _parse(model: type[Model], response: httpx.Response) -> Model:
    try:
        # Also in specs, which refuse unknown fields where users write them.
        return model.model_validate_json(response.content, extra="ignore")
    except ValidationError as error:
        raise errors.ApiUnavailable(
            f"{response.request.url.path} returned no {model.__name__}: {response.text[:200]!r}"
        ) from error


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
