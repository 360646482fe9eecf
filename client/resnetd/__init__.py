"""The Python client of resnetd.

>>> import resnetd
>>> with resnetd.Client(url, token) as client:
...     job = client.submit(depth=20, shortcut="A", dataset="digits")
...     job.network
'resnet-20-A'
"""

# "X as X" re-exports a name (PEP 484).
# isort: off
from resnetd.client import Client as Client
from resnetd.errors import (
    AmbiguousId as AmbiguousId,
    ApiError as ApiError,
    BadConfiguration as BadConfiguration,
    CannotConnect as CannotConnect,
    CannotFit as CannotFit,
    Conflict as Conflict,
    CorruptDownload as CorruptDownload,
    FieldError as FieldError,
    Forbidden as Forbidden,
    IdempotencyMismatch as IdempotencyMismatch,
    InvalidInput as InvalidInput,
    JobCancelled as JobCancelled,
    JobFailed as JobFailed,
    JobHeld as JobHeld,
    JobNotSucceeded as JobNotSucceeded,
    JobTimedOut as JobTimedOut,
    NotFinished as NotFinished,
    NotFound as NotFound,
    ResnetdError as ResnetdError,
    SearchHeld as SearchHeld,
    ServerError as ServerError,
    Unauthorized as Unauthorized,
    Unavailable as Unavailable,
    UnexpectedResponse as UnexpectedResponse,
)
from resnetd.models import (
    Attempt as Attempt,
    AttemptState as AttemptState,
    Blame as Blame,
    Bottleneck as Bottleneck,
    BottleneckCode as BottleneckCode,
    BudgetUsed as BudgetUsed,
    Cell as Cell,
    Checkpoint as Checkpoint,
    Cluster as Cluster,
    Comparison as Comparison,
    Dataset as Dataset,
    DatasetOrigin as DatasetOrigin,
    Delivery as Delivery,
    DeliveryState as DeliveryState,
    Difference as Difference,
    Duration as Duration,
    Event as Event,
    EventKind as EventKind,
    Importance as Importance,
    Job as Job,
    JobState as JobState,
    LogLevel as LogLevel,
    LogLine as LogLine,
    Member as Member,
    MemberJob as MemberJob,
    PaperValue as PaperValue,
    Part as Part,
    Plan as Plan,
    Progress as Progress,
    QueueStatus as QueueStatus,
    Reason as Reason,
    SampleStatistics as SampleStatistics,
    Scale as Scale,
    Recipe as Recipe,
    Search as Search,
    SearchEndReason as SearchEndReason,
    SearchState as SearchState,
    Series as Series,
    StopReason as StopReason,
    Study as Study,
    StudyMetric as StudyMetric,
    TrainingResult as TrainingResult,
    Trial as Trial,
    Verdict as Verdict,
    WaitingJob as WaitingJob,
    WaitReason as WaitReason,
    Webhook as Webhook,
)
from resnetd.retry import Retry as Retry
