"""Everything that can go wrong between a caller and the service.

ResnetdError
├── BadConfiguration        url, token or config file cannot be used as they are
├── CannotConnect           no answer, however often asked
├── UnexpectedAnswer        an answer that is not of resnetd
├── ApiError                the service refused: status, code, detail, errors, request_id
│   ├── InvalidInput            422; `errors` says where
│   ├── IdempotencyMismatch     422: the key was used for another spec
│   ├── CannotFit               422: larger than the cluster
│   ├── Unauthorized            401
│   ├── Forbidden               403
│   ├── NotFound                404
│   ├── Conflict                409: right in itself, wrong at this moment
│   └── ServerError             5xx: not the caller's fault
│       └── Unavailable             502, 503, 504: try again later
├── AmbiguousId             a shortened id that several jobs begin with
├── DownloadCorrupt         the bytes differ from their checksum
├── JobNotSucceeded         what wait() raises for a job that ended otherwise
│   ├── JobFailed
│   │   └── JobTimedOut         stopped by its own time limit
│   └── JobCancelled
└── NotFinished             wait() was given less time than the job needs
"""

from collections.abc import Sequence
from dataclasses import dataclass

from resnetd.models import Job, JobState, Reason
from resnetd.search_models import Search


class ResnetdError(Exception):
    """Base of all errors raised on purpose."""


class BadConfiguration(ResnetdError):
    """The url, the token or the config file cannot be used as they are."""


class CannotConnect(ResnetdError):
    """No answer, however often asked."""


class UnexpectedAnswer(ResnetdError):
    """An answer that is not of resnetd."""


@dataclass(frozen=True)
class Fault:
    """One wrong place in what was sent; `pointer` is a JSON pointer (RFC 6901)."""

    pointer: str
    message: str

    def __str__(self) -> str:
        place = ".".join(_unescape(step) for step in self.pointer.split("/")[1:])
        return f"{place}: {self.message}" if place else self.message


class ApiError(ResnetdError):
    """The service refused. `code` is stable, `detail` is for people."""

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        code: str,
        errors: tuple[Fault, ...] = (),
        request_id: str | None = None,
    ) -> None:
        super().__init__("; ".join([detail, *map(str, errors)]))
        self.detail = detail
        self.status = status
        self.code = code
        self.errors = errors
        self.request_id = request_id


class InvalidInput(ApiError):
    """What was sent is wrong; `errors` says where."""


class IdempotencyMismatch(ApiError):
    """The key was used for another spec."""


class CannotFit(ApiError):
    """The job is larger than the cluster."""


class Unauthorized(ApiError):
    """No token, or one that the service does not know."""


class Forbidden(ApiError):
    """A token that does not open this door."""


class NotFound(ApiError):
    """No such job, checkpoint or data set."""


class Conflict(ApiError):
    """Right in itself, wrong at this moment."""


class ServerError(ApiError):
    """Not the caller's fault."""


class Unavailable(ServerError):
    """Try again later."""


class AmbiguousId(ResnetdError):
    """A shortened id that several jobs or searches begin with; `candidates` are some of them."""

    def __init__(self, prefix: str, candidates: Sequence[Job | Search]) -> None:
        kind = "jobs" if isinstance(candidates[0], Job) else "searches"
        super().__init__(f"several {kind} begin with {prefix!r}")
        self.candidates = candidates


class DownloadCorrupt(ResnetdError):
    """The bytes differ from their checksum; nothing was kept."""


class JobNotSucceeded(ResnetdError):
    """What wait() raises for a job that ended otherwise."""

    def __init__(self, job: Job) -> None:
        why = ": ".join(part for part in (job.reason, job.message) if part)
        super().__init__(f"job {job.id} {job.state}" + (f" ({why})" if why else ""))
        self.job = job


class JobFailed(JobNotSucceeded):
    """It failed; `job.reason` and `job.message` say why."""


class JobTimedOut(JobFailed):
    """It was stopped by its own time limit."""


class JobCancelled(JobNotSucceeded):
    """Somebody cancelled it."""


class NotFinished(ResnetdError, TimeoutError):
    """wait() was given less time than the job needs; `job` is how it stood."""

    def __init__(self, job: Job, *, timeout_seconds: float) -> None:
        super().__init__(f"job {job.id} is still {job.state} after {timeout_seconds:g} s")
        self.job = job


class SearchNotFinished(ResnetdError, TimeoutError):
    """wait_search() was given less time than the search needs; `search` is how it stood."""

    def __init__(self, search: Search, *, timeout_seconds: float) -> None:
        super().__init__(f"search {search.id} is still {search.state} after {timeout_seconds:g} s")
        self.search = search


def of_answer(
    *,
    status: int,
    code: str,
    detail: str,
    errors: tuple[Fault, ...] = (),
    request_id: str | None = None,
) -> ApiError:
    """The narrowest error for an answer: by its code, or by its status where the code is new."""
    kind = _BY_CODE.get(code) or _BY_STATUS.get(status)
    if kind is None:
        kind = ServerError if status >= 500 else ApiError  # noqa: PLR2004 - HTTP
    return kind(detail, status=status, code=code, errors=errors, request_id=request_id)


def of_job(job: Job) -> JobNotSucceeded:
    """For a job that is final and did not succeed."""
    if job.state == JobState.CANCELLED:
        return JobCancelled(job)
    if job.reason == Reason.TIME_LIMIT:
        return JobTimedOut(job)
    return JobFailed(job)


_BY_CODE: dict[str, type[ApiError]] = {
    "idempotency-mismatch": IdempotencyMismatch,
    "cannot-fit": CannotFit,
}

_BY_STATUS: dict[int, type[ApiError]] = {
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    422: InvalidInput,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


def _unescape(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")
