"""HTTP requests to the service: authentication, retries, errors, and responses as records."""

import copy
import math
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from importlib import metadata
from typing import Any, NoReturn, TypeVar

import httpx
import msgspec
import tenacity

from resnetd.config import Connection
from resnetd.errors import (
    CannotConnect,
    FieldError,
    ResnetdError,
    Unauthorized,
    UnexpectedResponse,
    api_error_type,
)
from resnetd.models import Event, LogLine
from resnetd.records import Record, parse
from resnetd.retry import Retry, Sleep

T = TypeVar("T")
R = TypeVar("R", bound=Record)
Numbered = TypeVar("Numbered", Event, LogLine)
Params = Mapping[str, Any]

# A proxy of the environment is for other machines.
DIRECT_MOUNTS: Mapping[str, None] = dict.fromkeys(
    ("all://localhost", "all://127.0.0.1", "all://[::1]")
)
# Each watched job has a connection as long as it runs.
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=20)
# The service sends a comment every 15 seconds: a silent stream has lost its connection.
_STREAM_READ_SECONDS = 60.0


class _Problem(msgspec.Struct, frozen=True):
    """An error response (RFC 9457)."""

    code: str | None = None
    title: str | None = None
    detail: str | None = None
    errors: tuple[FieldError, ...] | None = None
    request_id: str | None = None


class BucketUnreadable(Exception):
    """The bucket, to which the service redirected a download, does not respond or refuses it."""


class ApiClient:
    """Makes requests. `get`, `post`, `patch`, `delete` and `submit` repeat what may be repeated.

    `sleep` is how it waits between repetitions, and its callers between polls.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        retry: Retry,
        timeout_seconds: float,
        transport: httpx.BaseTransport | None,
    ) -> None:
        self.retry = retry
        self.sleep: Sleep = tenacity.nap.sleep
        self._patience_seconds: float | None = None
        self._connection = connection
        self._stream_timeout = httpx.Timeout(timeout_seconds, read=_STREAM_READ_SECONDS)
        headers = {"User-Agent": f"resnetd-client/{metadata.version('resnetd')}"}
        if connection.token is not None:
            headers["Authorization"] = f"Bearer {connection.token}"
        self._http = httpx.Client(
            base_url=connection.url,
            headers=headers,
            timeout=timeout_seconds,
            transport=transport,
            mounts=DIRECT_MOUNTS,
            limits=LIMITS,
        )

    def close(self) -> None:
        self._http.close()

    def patient(self, limit_seconds: float = math.inf) -> "ApiClient":
        """The same client, but it repeats requests for `Retry.patience_seconds` or the limit."""
        patient = copy.copy(self)
        patient._patience_seconds = min(self.retry.patience_seconds, limit_seconds)  # noqa: SLF001
        return patient

    def get(self, path: str, kind: type[R], params: Params | None = None) -> R:
        return self._parse(kind, self._repeat("GET", path, params=params))

    def get_once(self, path: str, kind: type[R]) -> R:
        """Without repetitions."""
        return self._parse(kind, _json(self.request("GET", path)))

    def get_list(
        self, path: str, name: str, kind: type[R], params: Params | None = None
    ) -> tuple[R, ...]:
        """The list that the JSON object of the response has under `name`."""
        return self._parse_list(name, kind, self._repeat("GET", path, params=params))

    def get_pages(self, path: str, name: str, kind: type[R], params: Params) -> Iterator[R]:
        """The items of all pages; a page is requested when its first item is needed."""
        params = dict(params)
        while True:
            page = self._repeat("GET", path, params=params)
            yield from self._parse_list(name, kind, page)
            if (token := page.get("next_page_token")) is None:
                return
            params |= {"page_token": token}

    def get_numbered(
        self, path: str, name: str, kind: type[Numbered], *, after: int
    ) -> Iterator[Numbered]:
        """The items with a higher number than `after`, of all pages."""
        while items := self.get_list(path, name, kind, {"after": after}):
            yield from items
            after = max(item.number or after for item in items)

    def get_text(self, path: str, params: Params) -> str:
        return self.repeat(partial(self.request, "GET", path, params=params)).text

    def get_bytes(self, path: str, params: Params) -> bytes:
        return self.repeat(partial(self.request, "GET", path, params=params)).content

    def read_optional(self, path: str, params: Params) -> Any:
        """For what may be missing, as the curve of a job that is shown: None after any error."""
        try:
            return _json(self.request("GET", path, params=params))
        except ResnetdError:
            return None

    def post(self, path: str, kind: type[R], body: Any = None) -> R:
        """For requests that may be repeated as they are."""
        return self._parse(kind, self._repeat("POST", path, body=body))

    def post_once(self, path: str, kind: type[R], body: Any = None) -> R:
        """For requests that must not be repeated: the lost response may be that of a success."""
        send = partial(self.request, "POST", path, body=body)
        return self._parse(kind, _json(self.retry.call_refused(send, sleep=self.sleep)))

    def post_bytes(self, path: str, kind: type[R], content: bytes) -> R:
        """For a person who waits: repeated only where there are too many requests."""
        send = partial(self.request, "POST", path, content=content)
        return self._parse(kind, _json(self.retry.call_refused(send, sleep=self.sleep)))

    def submit(self, path: str, kind: type[R], body: Any, idempotency_key: str | None) -> R:
        """For requests that create something: with the key, a repetition creates nothing more."""
        key = idempotency_key or str(uuid.uuid4())
        if not (key.isascii() and key.isprintable()):
            raise ValueError(f"an idempotency key must be printable ASCII, received {key!r}")
        headers = {"Idempotency-Key": key}
        return self._parse(kind, self._repeat("POST", path, body=body, headers=headers))

    def patch(self, path: str, kind: type[R], body: Any) -> R:
        return self._parse(kind, self._repeat("PATCH", path, body=body))

    def put(self, path: str, kind: type[R], body: Any) -> R:
        return self._parse(kind, self._repeat("PUT", path, body=body))

    def delete(self, path: str, params: Params | None = None) -> None:
        self.repeat(partial(self.request, "DELETE", path, params=params))

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """One request without retries. Raises CannotConnect or the ApiError of the response."""
        try:
            response = self._http.request(
                method, path, params=params, json=body, content=content, headers=headers
            )
        except httpx.TransportError as error:
            raise self._cannot_connect(error) from error
        if not response.is_success:
            self._raise_error(response)
        return response

    @contextmanager
    def stream(
        self,
        path: str,
        *,
        params: Params | None = None,
        headers: Mapping[str, str],
        may_redirect: bool = False,
    ) -> Iterator[httpx.Response]:
        """One request whose body the caller reads. CannotConnect also where that breaks."""
        try:
            with self._http.stream(
                "GET", path, params=params, headers=headers, timeout=self._stream_timeout
            ) as response:
                if not (response.is_success or (may_redirect and response.has_redirect_location)):
                    response.read()
                    self._raise_error(response)
                yield response
        except httpx.TransportError as error:
            raise self._cannot_connect(error) from error

    @contextmanager
    def stream_bucket(self, url: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """A request to the bucket of the service. BucketUnreadable also where its body breaks."""
        request = self._http.build_request(
            "GET", url, headers=headers, timeout=self._stream_timeout
        )
        # Presigned URLs are refused with a token.
        request.headers.pop("Authorization", None)
        try:
            with closing(self._http.send(request, stream=True)) as response:
                if not response.is_success:
                    # Without the URL, which permits to read the file.
                    raise BucketUnreadable(f"the bucket answered {response.status_code}")
                yield response
        except httpx.TransportError as error:
            cause = str(error) or type(error).__name__
            raise BucketUnreadable(f"no response from the bucket: {cause}") from error

    def repeat(self, function: Callable[[], T]) -> T:
        """Call it until it finds the service, as `Retry` says."""
        return self.retry.call(function, sleep=self.sleep, patience_seconds=self._patience_seconds)

    def _repeat(self, method: str, path: str, **request: Any) -> Any:
        """The decoded JSON of the response."""
        send = partial(self.request, method, path, **request)
        return _json(self.repeat(send))

    def _parse(self, kind: type[R], document: Any) -> R:
        try:
            return parse(kind, document, self)
        except ValueError as error:
            raise UnexpectedResponse(
                f"unexpected response: not a valid {kind.__name__.removeprefix('_')}: {error}"
            ) from error

    def _parse_list(self, name: str, kind: type[R], document: Any) -> tuple[R, ...]:
        if not isinstance(document, dict) or not isinstance(document.get(name), list):
            raise UnexpectedResponse(
                f"unexpected response: an object with a list {name!r} is missing"
            )
        return tuple(self._parse(kind, item) for item in document[name])

    def _cannot_connect(self, error: httpx.TransportError) -> CannotConnect:
        cause = str(error) or type(error).__name__
        was_sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        message = f"no response from {self._connection.url}: {cause}"
        return CannotConnect(message, was_sent=was_sent)

    def _raise_error(self, response: httpx.Response) -> NoReturn:
        error = _error_of(response)
        if isinstance(error, Unauthorized):
            error.add_note(
                "no token was found: set RESNETD_TOKEN or RESNETD_TOKEN_FILE"
                if self._connection.token is None
                else f"the token came from {self._connection.token_source}"
            )
        theirs, ours = response.headers.get("X-Resnetd-Version"), metadata.version("resnetd")
        if theirs is not None and _major_and_minor(theirs) < _major_and_minor(ours):
            error.add_note(
                f"the service is resnetd {theirs}, older than this client ({ours}),"
                " and may not support the request"
            )
        raise error


def _json(response: httpx.Response) -> Any:
    try:
        return msgspec.json.decode(response.content)
    except ValueError as error:
        raise _not_json(response) from error


def _error_of(response: httpx.Response) -> ResnetdError:
    """A 5xx without JSON comes from a proxy in front of the service; other pages are not ours."""
    try:
        problem = msgspec.json.decode(response.content, type=_Problem)
    except ValueError:
        if not response.is_server_error:
            return _not_json(response)
        problem = _Problem()
    status = response.status_code
    code = problem.code or f"http-{status}"
    return api_error_type(status=status, code=code)(
        problem.detail or problem.title or f"{status} {response.reason_phrase}",
        status=status,
        code=code,
        errors=problem.errors or (),
        request_id=problem.request_id,
        retry_after_seconds=_retry_after_seconds(response),
    )


def _retry_after_seconds(response: httpx.Response) -> float | None:
    """None also where the header is a date, which no part of the service sends."""
    try:
        return float(response.headers.get("Retry-After", ""))
    except ValueError:
        return None


def _not_json(response: httpx.Response) -> UnexpectedResponse:
    return UnexpectedResponse(
        f"{response.url} answered {response.status_code} with"
        f" {response.headers.get('content-type', 'no content type')!r} instead of JSON;"
        " is it the URL of a resnetd service?"
    )


def _major_and_minor(version: str) -> tuple[int, ...]:
    """What compatibility depends on: 0.1.3 and 0.1 are equal."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
