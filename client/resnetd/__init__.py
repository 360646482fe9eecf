"""The Python client of resnetd.

import resnetd

with resnetd.Client() as client:
    job = client.submit(depth=20, shortcut="A", dataset="digits")
    job = client.wait(job.id)
    print(job.result.test_error, client.download(job.id))
"""

from resnetd.client import Client
from resnetd.errors import (
    AmbiguousId,
    ApiError,
    BadConfiguration,
    CannotConnect,
    CannotFit,
    Conflict,
    DownloadCorrupt,
    Fault,
    Forbidden,
    IdempotencyMismatch,
    InvalidInput,
    JobCancelled,
    JobFailed,
    JobNotSucceeded,
    JobTimedOut,
    NotFinished,
    NotFound,
    ResnetdError,
    ServerError,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
)
from resnetd.models import (
    Attempt,
    Checkpoint,
    Cluster,
    Dataset,
    Event,
    EventKind,
    Job,
    JobState,
    LogLine,
    Part,
    Progress,
    Reason,
    Recipe,
    Result,
    Series,
)
from resnetd.transport import Retry

__all__ = [
    "AmbiguousId",
    "ApiError",
    "Attempt",
    "BadConfiguration",
    "CannotConnect",
    "CannotFit",
    "Checkpoint",
    "Client",
    "Cluster",
    "Conflict",
    "Dataset",
    "DownloadCorrupt",
    "Event",
    "EventKind",
    "Fault",
    "Forbidden",
    "IdempotencyMismatch",
    "InvalidInput",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobNotSucceeded",
    "JobState",
    "JobTimedOut",
    "LogLine",
    "NotFinished",
    "NotFound",
    "Part",
    "Progress",
    "Reason",
    "Recipe",
    "ResnetdError",
    "Result",
    "Retry",
    "Series",
    "ServerError",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
]
