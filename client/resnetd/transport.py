"""One request and its answer: retries, and problem+json turned into errors.

Every call of this client may be repeated: reads change nothing, cancelling twice cancels once,
and a submission carries an Idempotency-Key.
"""

import itertools
import random
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NoReturn

import httpx

from resnetd import errors
from resnetd.config import Connection
from resnetd.errors import CannotConnect, Fault, ResnetdError, Unauthorized, UnexpectedAnswer

# What a starting or restarting server, or a proxy before it, answers.
_PASSING = {502, 503, 504}

# A stream is quiet for so long only when its connection is dead.
STREAM_READ_SECONDS = 60.0

Params = Mapping[str, Any]


@dataclass(frozen=True)
class Retry:
    """A request is made up to `attempts` times; each wait is about twice the one before.

    A stream that broke, or a job that is waited for, is asked for again until nothing was heard
    for `patience_seconds`: a restarting server must not end a watch.
    """

    attempts: int = 5
    first_delay_seconds: float = 0.2
    longest_delay_seconds: float = 5.0
    patience_seconds: float = 600.0

    def delays(self) -> Iterator[float]:
        """Without end; jittered, so that clients that failed together do not return together."""
        for doubling in itertools.count():
            # Beyond 2**32 there is nothing left to double.
            delay = self.first_delay_seconds * 2 ** min(doubling, 32)
            yield min(delay, self.longest_delay_seconds) * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret


class Patience:
    """How long nothing may be heard before a watch or a wait gives up."""

    def __init__(self, retry: Retry, *, at_most_seconds: float | None = None) -> None:
        limits = (retry.patience_seconds, at_most_seconds)
        self._seconds = min(limit for limit in limits if limit is not None)
        self.heard()

    def heard(self) -> None:
        self._heard_at = time.monotonic()

    @property
    def is_over(self) -> bool:
        return time.monotonic() - self._heard_at > self._seconds


class Transport:
    """The only place that knows httpx."""

    def __init__(self, connection: Connection, *, retry: Retry, timeout_seconds: float) -> None:
        self._connection = connection
        self.retry = retry
        self._timeout_seconds = timeout_seconds
        headers = {"User-Agent": f"resnetd-client/{metadata.version('resnetd')}"}
        if connection.token is not None:
            headers["Authorization"] = f"Bearer {connection.token}"
        self._http = httpx.Client(
            base_url=connection.url,
            headers=headers,
            timeout=timeout_seconds,
            # Each followed job holds a connection for as long as it runs.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
        )

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, params: Params | None = None, *, is_retried: bool = True) -> Any:
        """The decoded JSON."""
        return _json(self._send("GET", path, params=params, is_retried=is_retried))

    def get_text(self, path: str, params: Params) -> str:
        return self._send("GET", path, params=params).text

    def post(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        return _json(self._send("POST", path, body=body, headers=headers))

    def patch(self, path: str, body: Any) -> Any:
        return _json(self._send("PATCH", path, body=body))

    def delete(self, path: str) -> None:
        self._send("DELETE", path)

    @contextmanager
    def stream(
        self,
        path: str,
        *,
        params: Params | None = None,
        headers: Mapping[str, str],
        read_seconds: float = STREAM_READ_SECONDS,
    ) -> Iterator[httpx.Response]:
        """One try; the body is read by the caller, inside. CannotConnect where it breaks."""
        timeout = httpx.Timeout(self._timeout_seconds, read=read_seconds)
        try:
            with self._http.stream(
                "GET", path, params=params, headers=headers, timeout=timeout
            ) as response:
                if not response.is_success:
                    response.read()
                    self._refuse(response)
                yield response
        except httpx.TransportError as error:
            raise self._cannot_connect(error) from error

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        is_retried: bool = True,
    ) -> httpx.Response:
        left = self.retry.attempts if is_retried else 1
        for delay in self.retry.delays():
            left -= 1
            try:
                response = self._http.request(
                    method, path, params=params, json=body, headers=headers
                )
            except httpx.TransportError as error:
                if left <= 0:
                    raise self._cannot_connect(error) from error
            else:
                if response.is_success:
                    return response
                if response.status_code not in _PASSING or left <= 0:
                    self._refuse(response)
            time.sleep(delay)
        raise AssertionError("delays have no end")

    def _cannot_connect(self, error: httpx.TransportError) -> CannotConnect:
        why = str(error) or type(error).__name__
        return CannotConnect(f"no answer from {self._connection.url}: {why}")

    def _refuse(self, response: httpx.Response) -> NoReturn:
        error = _problem(response)
        if isinstance(error, Unauthorized):
            error.add_note(
                "no token was found: set RESNETD_TOKEN or RESNETD_TOKEN_FILE"
                if self._connection.token is None
                else f"the token came from {self._connection.token_source}"
            )
        theirs, ours = response.headers.get("X-Resnetd-Version"), metadata.version("resnetd")
        if theirs is not None and _numbers(theirs) < _numbers(ours):
            error.add_note(
                f"the service is resnetd {theirs}, older than this client, {ours}:"
                " it may not know what was asked for"
            )
        raise error


def _numbers(version: str) -> tuple[int, ...]:
    """Those that compatibility hangs on: 0.1.3 and 0.1 are equal."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise _not_ours(response) from error


def _problem(response: httpx.Response) -> ResnetdError:
    """RFC 9457. Of a page that is no JSON only a 5xx tells something: a proxy's word on us."""
    try:
        problem = response.json()
    except ValueError:
        problem = None
    status = response.status_code
    if not isinstance(problem, dict):
        if status < 500:  # noqa: PLR2004 - HTTP
            return _not_ours(response)
        problem = {}
    return errors.of_answer(
        status=status,
        code=str(problem.get("code", f"http-{status}")),
        detail=str(
            problem.get("detail") or problem.get("title") or f"{status} {response.reason_phrase}"
        ),
        errors=tuple(
            Fault(pointer=str(fault.get("pointer", "")), message=str(fault.get("message", "")))
            for fault in problem.get("errors") or ()
        ),
        request_id=problem.get("request_id"),
    )


def _not_ours(response: httpx.Response) -> UnexpectedAnswer:
    return UnexpectedAnswer(
        f"{response.url} answered {response.status_code} with"
        f" {response.headers.get('content-type', 'no content type')!r} instead of JSON;"
        " is a resnetd service there?"
    )
