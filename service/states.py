"""States of jobs, attempts, runners and searches, their transitions, and why they end.

Jobs:

    blocked ──dependencies met──┐
    held ────────release────────┤
    paused ──────resume─────────┤
      ▲                         ▼
      │                       queued ──claim──► starting ──► running ──┬──► succeeded
      │                         ▲                  │            │      ├──► failed
      │                         └──────retry───────┼────────────┤      └──► cancelled
      └─────────────────pause──────────────────────┴────────────┘

A waiting job (blocked, queued, held or paused) can be cancelled, held or paused. The service holds
a job whose attempts repeatedly fail at the same iteration. Stopping a running job is a request (a
column of the job), not a state: the state changes when the attempt has ended.

Searches:

    queued ──driver starts──► running ──┬──► succeeded ──extend──► queued
      ▲                          │      ├──► failed
      └──resume── paused ◄─pause─┘      └──► cancelled
"""

from enum import StrEnum


class JobState(StrEnum):
    BLOCKED = "blocked"
    QUEUED = "queued"
    HELD = "held"
    PAUSED = "paused"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in FINAL_STATES

    @property
    def is_waiting(self) -> bool:
        """Whether the job has no current attempt and may still get one."""
        return self in WAITING_STATES

    @property
    def past_phrase(self) -> str:
        """A final state in a message: "job X was cancelled"."""
        return _PAST_PHRASES[self.value]


_PAST_PHRASES = {
    "succeeded": "has succeeded",
    "failed": "has failed",
    "cancelled": "was cancelled",
}

WAITING_STATES = frozenset({JobState.BLOCKED, JobState.QUEUED, JobState.HELD, JobState.PAUSED})
_AFTER_ATTEMPT = frozenset(
    {
        JobState.QUEUED,
        JobState.HELD,
        JobState.PAUSED,
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.CANCELLED,
    }
)

NEXT_STATES: dict[JobState, frozenset[JobState]] = {
    JobState.BLOCKED: WAITING_STATES - {JobState.BLOCKED} | {JobState.CANCELLED},
    JobState.QUEUED: frozenset(
        {
            JobState.HELD,
            JobState.PAUSED,
            JobState.STARTING,
            JobState.FAILED,
            JobState.CANCELLED,
        }
    ),
    JobState.HELD: frozenset({JobState.BLOCKED, JobState.QUEUED, JobState.CANCELLED}),
    JobState.PAUSED: frozenset({JobState.BLOCKED, JobState.QUEUED, JobState.CANCELLED}),
    JobState.STARTING: _AFTER_ATTEMPT | {JobState.RUNNING},
    JobState.RUNNING: _AFTER_ATTEMPT,
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}

FINAL_STATES = frozenset(state for state in JobState if not NEXT_STATES[state])


class AttemptState(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"


class RayJobState(StrEnum):
    """A runner or a search's driver is ready from its first call on, busy or idle."""

    PLANNED = "planned"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    TERMINATED = "terminated"


class Blame(StrEnum):
    """Who caused the end of an attempt; only failures by the user count against max_restarts."""

    USER = "user"
    INFRASTRUCTURE = "infrastructure"
    PLATFORM = "platform"


class Reason(StrEnum):
    """Why an attempt ended, or a job without an attempt."""

    COMPLETED = "completed"
    BUDGET_REACHED = "budget-reached"  # recipe.max_seconds or recipe.target_error
    CANCELLED = "cancelled"
    KILLED = "killed"
    PAUSED = "paused"
    PREEMPTED = "preempted"
    RESIZED = "resized"  # to continue with more workers
    EARLY_STOPPED = "early-stopped"
    DEPENDENCY_FAILED = "dependency-failed"
    TIME_LIMIT = "time-limit"
    DATASET_MISSING = "dataset-missing"
    DIVERGED = "diverged"
    TRAINING_ERROR = "training-error"
    OUT_OF_MEMORY = "out-of-memory"
    WORKER_DIED = "worker-died"
    HEARTBEAT_TIMEOUT = "heartbeat-timeout"
    START_TIMEOUT = "start-timeout"
    CLUSTER_LOST = "cluster-lost"
    DELIVERY_FAILED = "delivery-failed"
    INTERNAL = "internal"

    @property
    def blame(self) -> Blame | None:
        """None if the attempt completed or was stopped on request."""
        return _BLAME[self]

    @property
    def is_process_failure(self) -> bool:
        """Whether the job's own processes failed, for any cause."""
        return self in _PROCESS_FAILURES

    @property
    def is_retryable(self) -> bool:
        """Whether another attempt may succeed."""
        return self in _RETRYABLE

    @property
    def is_success(self) -> bool:
        """Whether the training ended as its recipe says, with all its results."""
        return self in {Reason.COMPLETED, Reason.BUDGET_REACHED}


_BLAME: dict[Reason, Blame | None] = {
    Reason.COMPLETED: None,
    Reason.BUDGET_REACHED: None,
    Reason.CANCELLED: None,
    Reason.KILLED: None,
    Reason.PAUSED: None,
    Reason.PREEMPTED: None,
    Reason.RESIZED: None,
    Reason.EARLY_STOPPED: None,
    Reason.DEPENDENCY_FAILED: None,
    Reason.TIME_LIMIT: Blame.USER,
    Reason.DATASET_MISSING: Blame.USER,
    Reason.DIVERGED: Blame.USER,
    Reason.TRAINING_ERROR: Blame.USER,
    Reason.OUT_OF_MEMORY: Blame.USER,
    Reason.WORKER_DIED: Blame.INFRASTRUCTURE,
    Reason.HEARTBEAT_TIMEOUT: Blame.INFRASTRUCTURE,
    Reason.START_TIMEOUT: Blame.INFRASTRUCTURE,
    Reason.CLUSTER_LOST: Blame.INFRASTRUCTURE,
    Reason.DELIVERY_FAILED: Blame.INFRASTRUCTURE,
    Reason.INTERNAL: Blame.PLATFORM,
}

_RETRYABLE = frozenset(
    {
        Reason.TRAINING_ERROR,
        Reason.OUT_OF_MEMORY,
        Reason.WORKER_DIED,
        Reason.HEARTBEAT_TIMEOUT,
        Reason.START_TIMEOUT,
        Reason.CLUSTER_LOST,
        Reason.DELIVERY_FAILED,
        Reason.INTERNAL,
    }
)

_PROCESS_FAILURES = frozenset(
    {
        Reason.TRAINING_ERROR,
        Reason.OUT_OF_MEMORY,
        Reason.WORKER_DIED,
        Reason.HEARTBEAT_TIMEOUT,
        Reason.INTERNAL,
    }
)


class StopReason(StrEnum):
    """Why a training process is asked to stop at the next step boundary."""

    CANCEL = "cancel"
    TIME_LIMIT = "time-limit"
    PAUSE = "pause"
    PREEMPT = "preempt"
    EARLY_STOP = "early-stop"
    RESIZE = "resize"

    @property
    def reason(self) -> Reason:
        """The reason with which the stopped attempt ends."""
        return _STOP_REASONS[self]


_STOP_REASONS = {
    StopReason.CANCEL: Reason.CANCELLED,
    StopReason.TIME_LIMIT: Reason.TIME_LIMIT,
    StopReason.PAUSE: Reason.PAUSED,
    StopReason.PREEMPT: Reason.PREEMPTED,
    StopReason.EARLY_STOP: Reason.EARLY_STOPPED,
    StopReason.RESIZE: Reason.RESIZED,
}

# The job continues at once, unless it is asked to stop for another reason meanwhile.
CONTINUING_STOPS = frozenset({None, StopReason.RESIZE})


class SearchState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """A final search runs no trial; only extending a succeeded search queues it again."""
        return self in _FINAL_SEARCH_STATES

    @property
    def past_phrase(self) -> str:
        """A final state in a message: "search X was cancelled"."""
        return _PAST_PHRASES[self.value]

    @property
    def wants_driver(self) -> bool:
        return self in {SearchState.QUEUED, SearchState.RUNNING}


_FINAL_SEARCH_STATES = frozenset({SearchState.SUCCEEDED, SearchState.FAILED, SearchState.CANCELLED})
_AFTER_DRIVER = _FINAL_SEARCH_STATES | {SearchState.PAUSED}

NEXT_SEARCH_STATES: dict[SearchState, frozenset[SearchState]] = {
    SearchState.QUEUED: _AFTER_DRIVER | {SearchState.RUNNING},
    SearchState.RUNNING: _AFTER_DRIVER | {SearchState.QUEUED},
    SearchState.PAUSED: frozenset({SearchState.QUEUED, SearchState.CANCELLED}),
    SearchState.SUCCEEDED: frozenset({SearchState.QUEUED}),
    SearchState.FAILED: frozenset(),
    SearchState.CANCELLED: frozenset(),
}


class SearchEndReason(StrEnum):
    """Why a search ended; the first four are limits of its budget."""

    TRIALS = "trials"
    TARGET = "target-error"
    ITERATIONS = "iterations"
    WALL_TIME = "wall-seconds"
    CANCELLED = "cancelled"
    NO_TRIAL = "no-trial-succeeded"
    DRIVER = "driver-failed"


class LogLevel(StrEnum):
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class DependencyCondition(StrEnum):
    """How a job that another job depends on must have ended."""

    OK = "ok"  # succeeded
    ANY = "any"


class DeliveryState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class AlertCondition(StrEnum):
    """What an alert reports: changes of a job's state, then what time decides."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    HELD = "held"  # by the service
    DIVERGED = "diverged"
    SILENT = "silent"
    PLATEAU = "plateau"
    QUOTA = "quota"
    QUEUE_STUCK = "queue-stuck"


class AlertChannel(StrEnum):
    WEBHOOK = "webhook"
    EMAIL = "email"
    SLACK = "slack"
    DISCORD = "discord"


class CheckpointPart(StrEnum):
    """The files of a checkpoint; all but the first two exist for a finished training only."""

    WEIGHTS = "weights"  # the state_dict as safetensors, with the spec in its metadata
    STATE = "state"  # optimizer state and position in the data, as safetensors
    PT = "pt"  # the state_dict for torch.load(weights_only=True)
    ONNX = "onnx"  # the network for ONNX Runtime
    ONNX_IMAGE = "onnx-image"  # with its preprocessing: takes the bytes of an image of any size
    PROGRAM = "pt2"  # a torch.export program
    PROGRAM_IMAGE = "pt2-image"  # with its preprocessing
    CARD = "card"  # a model card in Markdown
    PREDICTIONS = "predictions"  # the logits of the test images, as safetensors


class Role(StrEnum):
    """What a person may do, each more than the one before."""

    VIEWER = "viewer"
    MEMBER = "member"
    ADMIN = "admin"

    def includes(self, other: "Role") -> bool:
        order = list(Role)
        return order.index(self) >= order.index(other)


class TokenScope(StrEnum):
    """What a token may do of what its person may, each more than the one before."""

    SHARED = "shared"  # of a link: reads what was shared
    READ = "read"
    SUBMIT = "submit"
    FULL = "full"

    def includes(self, other: "TokenScope") -> bool:
        order = list(TokenScope)
        return order.index(self) >= order.index(other)


class MembersSee(StrEnum):
    """Which jobs, searches and studies a member sees."""

    ALL = "all"
    OWN = "own"


class ActorKind(StrEnum):
    """Who caused an event. Processes of an attempt report for it, and the driver for its search."""

    PERSON = "person"
    DISPATCHER = "dispatcher"
    ATTEMPT = "attempt"
    SEARCH = "search"


class AuditKind(StrEnum):
    """What the audit log records."""

    SIGN_IN = "sign-in"
    SIGN_IN_FAILED = "sign-in-failed"
    TOKEN_REFUSED = "token-refused"  # noqa: S105
    SIGN_OUT = "sign-out"
    PERSON_ADDED = "person-added"
    ROLE_CHANGED = "role-changed"
    GROUP_CHANGED = "group-changed"
    PERSON_REMOVED = "person-removed"
    TOKEN_CREATED = "token-created"  # noqa: S105 - what happened
    TOKEN_ROTATED = "token-rotated"  # noqa: S105
    TOKEN_REVOKED = "token-revoked"  # noqa: S105
    JOB_DELETED = "job-deleted"
    SEARCH_DELETED = "search-deleted"
    STUDY_DELETED = "study-deleted"
    DATASET_DELETED = "dataset-deleted"
    SHARE_CREATED = "share-created"
    SHARE_OPENED = "share-opened"
    SHARE_REVOKED = "share-revoked"
    QUOTA_SET = "quota-set"
    QUOTA_DELETED = "quota-deleted"
    FAIR_SHARE_SET = "fair-share-set"
    MODEL_PROMOTED = "model-promoted"
    MODEL_ALIAS_REMOVED = "model-alias-removed"
    MODEL_DELETED = "model-deleted"
    MODEL_VERSION_DELETED = "model-version-deleted"
