"""The errors that this client raises on purpose.

ResnetdError
├── BadConfiguration        the URL, the token or the config file cannot be used
├── CannotConnect           no response, after all retries
├── UnexpectedResponse      a response that is not one of a resnetd service
├── ApiError                the service refused: status, code, detail, errors, request_id
│   ├── InvalidInput            422; `errors` has the fields
│   ├── IdempotencyMismatch     the idempotency key was used with another spec
│   ├── CannotFit               422: the job is larger than the cluster
│   ├── Unauthorized            401: no token, or an unknown one
│   ├── Forbidden               403: the token does not permit this request
│   ├── NotFound                404
│   ├── Conflict                409: valid, but not in the current state
│   ├── TooManyRequests         429, after all repetitions
│   └── ServerError             5xx
│       └── Unavailable             502, 503, 504: try again later
├── EmptyId                 an id has no characters
├── AmbiguousId             several ids begin with the given characters
├── CorruptDownload         the bytes do not match their checksum
├── MissingExtra            an export needs a package that is not installed
├── ExportFailed            the tool that an export is for refuses it, or does not answer
├── UnusableFile            a file is no result card, no public key, or no weights
├── NoSuchNetwork           another library has no network that computes the same
├── UnknownTopic            `resnetd help` has no such topic
├── JobNotSucceeded         wait() raises it for a job that ended otherwise
│   ├── JobFailed
│   │   └── JobTimedOut         the job reached its own time limit
│   ├── JobCancelled
│   └── JobHeld                 the service holds the job until it is released
├── SearchHeld              the service holds all trials of the search that could run
└── NotFinished             wait() timed out
"""

from collections.abc import Sequence

import msgspec

from resnetd.models import Job, JobState, Reason, Search, Study, Trial


class ResnetdError(Exception):
    """Base of all errors raised on purpose."""


class BadConfiguration(ResnetdError):
    """The URL, the token or the config file cannot be used."""


class CannotConnect(ResnetdError):
    """There was no response, after all retries.

    Attributes:
        was_sent: the service may have got the request.
    """

    def __init__(self, message: str, *, was_sent: bool = True) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class UnexpectedResponse(ResnetdError):
    """The response is not one of a resnetd service."""


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong with one field; `pointer` is a JSON pointer (RFC 6901) into the input.

    `location`: the part of the request: body, query, header, path or cookie.
    """

    pointer: str = ""
    message: str = ""
    location: str = "body"

    def __str__(self) -> str:
        path = ".".join(
            step.replace("~1", "/").replace("~0", "~") for step in self.pointer.split("/")[1:]
        )
        if self.location in {"header", "cookie"}:
            path = f"{self.location} {path}"
        return f"{path}: {self.message}" if path else self.message


class ApiError(ResnetdError):
    """The service refused the request. `code` is stable; `detail` is text for people."""

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        code: str,
        errors: tuple[FieldError, ...] = (),
        request_id: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__("; ".join([detail, *map(str, errors)]))
        self.detail = detail
        self.status = status
        self.code = code
        self.errors = errors
        self.request_id = request_id
        self.retry_after_seconds = retry_after_seconds


class InvalidInput(ApiError):
    """The input is wrong; `errors` has the fields."""


class IdempotencyMismatch(ApiError):
    """The idempotency key was used with another spec."""


class CannotFit(ApiError):
    """The job needs more than the cluster has in total."""


class Unauthorized(ApiError):
    """The token is missing or unknown."""


class Forbidden(ApiError):
    """The token does not permit this request."""


class NotFound(ApiError):
    """No such job, search, checkpoint or webhook."""


class Conflict(ApiError):
    """The request is valid, but not in the current state."""


class QuotaExceeded(Conflict):
    """A person or tag has as many waiting jobs as its quota allows."""


class TooManyRequests(ApiError):
    """The token or the address sends more requests, or has more open streams, than its limit."""


class ServerError(ApiError):
    """The service failed."""


class Unavailable(ServerError):
    """The service cannot respond now; try again later."""


class EmptyId(ResnetdError, ValueError):
    """An id has no characters; with a prefix of it all would match."""

    def __init__(self) -> None:
        super().__init__("the id is empty")


class AmbiguousId(ResnetdError):
    """Several jobs, searches or studies have an id with this prefix; `candidates` are some."""

    def __init__(self, prefix: str, candidates: Sequence[Job | Search | Study]) -> None:
        kind = {Job: "jobs", Search: "searches", Study: "studies"}[type(candidates[0])]
        super().__init__(f"several {kind} have an id that begins with {prefix!r}")
        self.candidates = candidates


class CorruptDownload(ResnetdError):
    """The downloaded bytes do not match their checksum; they were deleted."""


class MissingExtra(ResnetdError):
    """An optional package is not installed; the message has the command that installs it."""

    def __init__(self, extra: str, package: str) -> None:
        super().__init__(
            f"{extra} needs the package {package}; install it with: pip install 'resnetd[{extra}]'"
        )


class ExportFailed(ResnetdError):
    """The tool that an export is for refuses it, or does not answer."""


class UnusableFile(ResnetdError):
    """The file is no result card, no public key, or no weights; the message says why."""


class NoSuchNetwork(ResnetdError):
    """Another library has no network that computes the same; the message names what differs."""


class UnknownTopic(ResnetdError):
    """No part of a spec, and no field, has this name."""

    def __init__(self, name: str, similar: Sequence[str]) -> None:
        hint = (
            f"similar: {', '.join(similar)}" if similar else "without a name, the topics are listed"
        )
        super().__init__(f"specs have no field {name!r}; {hint}")


class JobNotSucceeded(ResnetdError):
    """The job ended without success; `job` is its last record."""

    def __init__(self, job: Job) -> None:
        cause = ": ".join(part for part in (job.reason, job.message) if part)
        outcome = _OUTCOMES.get(job.state, job.state)
        super().__init__(f"job {job.id} {outcome}" + (f" ({cause})" if cause else ""))
        self.job = job


class JobFailed(JobNotSucceeded):
    """The job failed; `job.reason` and `job.message` have the cause."""


class JobTimedOut(JobFailed):
    """The job reached its own time limit."""


class JobCancelled(JobNotSucceeded):
    """The job was cancelled or killed."""


class JobHeld(JobNotSucceeded):
    """The attempts of the job failed repeatedly at one iteration; a release tries again."""


class SearchHeld(ResnetdError):
    """The search cannot continue before `trials` are released; `search` is its last record."""

    def __init__(self, search: Search, trials: Sequence[Trial]) -> None:
        listed = ", ".join(
            f"#{trial.number} (job {trial.job_id}, {trial.reason})" for trial in trials
        )
        super().__init__(
            f"search {search.id} cannot continue: the service holds its trials after repeated "
            f"failures until they are released or cancelled: {listed}"
        )
        self.search = search
        self.trials = trials


class NotFinished(ResnetdError, TimeoutError):
    """The job, search or study did not end in time; `latest` is its last record."""

    def __init__(self, latest: Job | Search | Study, *, timeout_seconds: float) -> None:
        kind = type(latest).__name__.lower()
        super().__init__(f"{kind} {latest.id} is still {latest.state} after {timeout_seconds:g} s")
        self.latest = latest


def error_of_job(job: Job) -> JobNotSucceeded:
    """The error for a job that has not succeeded and does not continue by itself."""
    if job.is_held_by_service:
        return JobHeld(job)
    if job.state == JobState.CANCELLED:
        return JobCancelled(job)
    if job.reason == Reason.TIME_LIMIT:
        return JobTimedOut(job)
    return JobFailed(job)


def raise_if_held(search: Search, trials: Sequence[Trial]) -> None:
    """SearchHeld if the search cannot continue before one of its trials is released.

    `trials`: all trials of the search, read after it.
    """
    budget = search.spec["budget"]
    unfinished = [trial for trial in trials if not trial.state.is_final]
    can_grow = len(unfinished) < budget["concurrent"] and len(trials) < budget["trials"]
    if search.is_final or can_grow or not unfinished:
        return
    if all(trial.is_held_by_service for trial in unfinished):
        raise SearchHeld(search, unfinished)


def api_error_type(*, status: int, code: str) -> type[ApiError]:
    """The narrowest class for a response: by its code, or by its status if the code is new."""
    if (kind := _BY_CODE.get(code) or _BY_STATUS.get(status)) is not None:
        return kind
    return ServerError if status >= 500 else ApiError  # noqa: PLR2004 - HTTP


_OUTCOMES: dict[str, str] = {
    JobState.CANCELLED: "was cancelled",
    JobState.HELD: "is held by the service",
}
_BY_CODE: dict[str, type[ApiError]] = {
    "idempotency-mismatch": IdempotencyMismatch,
    "cannot-fit": CannotFit,
    "quota-exceeded": QuotaExceeded,
}
_BY_STATUS: dict[int, type[ApiError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    422: InvalidInput,
    429: TooManyRequests,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}
