"""The exit codes of the command."""

from enum import IntEnum

from resnetd.errors import (
    AmbiguousId,
    BadConfiguration,
    CannotConnect,
    CannotFit,
    EmptyId,
    IdempotencyMismatch,
    InvalidInput,
    JobHeld,
    NotFinished,
    NotFound,
    ResnetdError,
    SearchHeld,
    TooManyRequests,
    Unavailable,
    UnknownTopic,
)
from resnetd.models import Job, JobState, Reason, Search


class ExitCode(IntEnum):
    OK = 0
    ERROR = 1
    USAGE = 2  # a wrong option, an invalid spec, an ambiguous id
    CANNOT_CONNECT = 69  # EX_UNAVAILABLE of sysexits.h: no response, 429 or 503
    FAILED = 100
    NOT_FINISHED = 101
    NOT_FOUND = 102
    CANCELLED = 103
    TIMED_OUT = 104  # the job reached its own time limit
    DETACHED = 130  # 128 + SIGINT: the watch ended, the job continues


def of_error(error: Exception) -> ExitCode:
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), ExitCode.ERROR)


def of_job(job: Job) -> ExitCode:
    if job.reason == Reason.TIME_LIMIT:
        return ExitCode.TIMED_OUT
    if job.is_final:
        return _BY_STATE.get(job.state, ExitCode.ERROR)
    return ExitCode.NOT_FINISHED


def of_search(search: Search) -> ExitCode:
    return _BY_STATE.get(search.state, ExitCode.NOT_FINISHED)


def of_jobs(jobs: list[Job]) -> ExitCode:
    """The worst of several jobs: a failure before a time limit before a cancellation."""
    codes = {of_job(job) for job in jobs}
    return next((code for code in _WORST_FIRST if code in codes), ExitCode.OK)


_BY_ERROR: tuple[tuple[type[ResnetdError] | tuple[type[ResnetdError], ...], ExitCode], ...] = (
    (
        (
            *(InvalidInput, IdempotencyMismatch, CannotFit, BadConfiguration),
            *(AmbiguousId, EmptyId, UnknownTopic),
        ),
        ExitCode.USAGE,
    ),
    ((CannotConnect, TooManyRequests, Unavailable), ExitCode.CANNOT_CONNECT),
    (NotFound, ExitCode.NOT_FOUND),
    ((NotFinished, JobHeld, SearchHeld), ExitCode.NOT_FINISHED),
)

# By text: states of jobs and searches have the same names.
_BY_STATE: dict[str, ExitCode] = {
    JobState.SUCCEEDED: ExitCode.OK,
    JobState.FAILED: ExitCode.FAILED,
    JobState.CANCELLED: ExitCode.CANCELLED,
}

_WORST_FIRST = (
    ExitCode.ERROR,
    ExitCode.FAILED,
    ExitCode.TIMED_OUT,
    ExitCode.CANCELLED,
    ExitCode.NOT_FINISHED,
)
