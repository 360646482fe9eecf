"""What the command's exit codes mean."""

from enum import IntEnum

from resnetd.errors import (
    AmbiguousId,
    BadConfiguration,
    CannotConnect,
    CannotFit,
    IdempotencyMismatch,
    InvalidInput,
    JobNotSucceeded,
    NotFinished,
    NotFound,
    ResnetdError,
    SearchNotFinished,
    Unavailable,
)
from resnetd.models import Job, JobState, Reason
from resnetd.search_models import Search


class ExitCode(IntEnum):
    OK = 0
    ERROR = 1
    USAGE = 2  # a wrong option, a spec that is not valid, an ambiguous id
    CANNOT_CONNECT = 69  # EX_UNAVAILABLE of sysexits.h: no answer, or 503
    FAILED = 100
    NOT_FINISHED = 101
    NOT_FOUND = 102
    CANCELLED = 103
    TIMED_OUT = 104  # stopped by the job's own time limit
    DETACHED = 130  # 128 + SIGINT: the watch ended, the job goes on


def of_error(error: Exception) -> ExitCode:
    if isinstance(error, JobNotSucceeded):
        return of_job(error.job)
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), ExitCode.ERROR)


def of_job(job: Job) -> ExitCode:
    if job.reason == Reason.TIME_LIMIT:
        return ExitCode.TIMED_OUT
    if job.is_final:
        return _BY_STATE.get(job.state, ExitCode.ERROR)
    return ExitCode.NOT_FINISHED


def of_search(search: Search) -> ExitCode:
    return _BY_STATE.get(JobState(search.state), ExitCode.NOT_FINISHED)


def of_jobs(jobs: list[Job]) -> ExitCode:
    """Of several jobs the worst: any failure before a time limit before a cancellation."""
    codes = {of_job(job) for job in jobs}
    return next((code for code in _WORST_FIRST if code in codes), ExitCode.OK)


_BY_ERROR: tuple[tuple[type[ResnetdError] | tuple[type[ResnetdError], ...], ExitCode], ...] = (
    ((InvalidInput, IdempotencyMismatch, CannotFit, BadConfiguration, AmbiguousId), ExitCode.USAGE),
    ((CannotConnect, Unavailable), ExitCode.CANNOT_CONNECT),
    (NotFound, ExitCode.NOT_FOUND),
    ((NotFinished, SearchNotFinished), ExitCode.NOT_FINISHED),
)

_BY_STATE = {
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
