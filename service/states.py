"""The states of jobs, attempts, runners and searches, the moves between them, and why they end.

    blocked ──what it waits for has ended──┐
    held ──────────release─────────────────┤
    paused ────────resume──────────────────┤
      ▲                                    ▼
      │                                  queued ──claimed──► starting ──► running ──► succeeded
      │                                    ▲                    │            │ ├────► failed
      │                                    └───tried again──────┼────────────┤ └────► cancelled
      └────────────pause────────────────────────────────────────┴────────────┘

What waits (blocked, queued, held, paused) can be cancelled, held and paused. A job that breaks
its attempts at the same iteration again and again is held by the service itself.

Stopping a running job is a request (a column of the job), not a state: the job moves when its
attempt has ended.

    queued ──driver is up──► running ──► succeeded, failed, cancelled
      ▲  ▲                    │   │
      │  └──────resume── paused ◄─┘      a search; one that has succeeded is
      └───────extended────────────       queued again when it is extended
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
        """Whether it has no attempt, and may have one later."""
        return self in WAITING_STATES


_WAITING = frozenset({JobState.BLOCKED, JobState.QUEUED, JobState.HELD, JobState.PAUSED})
_AFTER_AN_ATTEMPT = frozenset(
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
    JobState.BLOCKED: _WAITING - {JobState.BLOCKED} | {JobState.CANCELLED},
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
    JobState.STARTING: _AFTER_AN_ATTEMPT | {JobState.RUNNING},
    JobState.RUNNING: _AFTER_AN_ATTEMPT,
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}

FINAL_STATES = frozenset(state for state in JobState if not NEXT_STATES[state])
WAITING_STATES = _WAITING


class AttemptState(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"


class RunnerState(StrEnum):
    """Ready is who has asked for something to do; who has it or waits for it, alike."""

    PLANNED = "planned"
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    TERMINATED = "terminated"


class Blame(StrEnum):
    """Whose fault the end of an attempt is; only the user's count against max_restarts."""

    USER = "user"
    INFRASTRUCTURE = "infrastructure"
    PLATFORM = "platform"


class Reason(StrEnum):
    """Why an attempt ended, or why a job ended that had none."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    KILLED = "killed"
    PAUSED = "paused"
    PREEMPTED = "preempted"
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
        """None where nobody is at fault: the attempt completed, or was stopped on request."""
        return _BLAME[self]

    @property
    def is_process_failure(self) -> bool:
        """Whether the job's own processes broke, for whatever cause."""
        return self in _PROCESS_FAILURES

    @property
    def is_retryable(self) -> bool:
        """Whether another attempt could end differently."""
        return self in _RETRYABLE


_BLAME: dict[Reason, Blame | None] = {
    Reason.COMPLETED: None,
    Reason.CANCELLED: None,
    Reason.KILLED: None,
    Reason.PAUSED: None,
    Reason.PREEMPTED: None,
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
    """What a training process is told when it should stop at the next step boundary."""

    CANCEL = "cancel"
    TIME_LIMIT = "time-limit"
    PAUSE = "pause"
    PREEMPT = "preempt"
    EARLY_STOP = "early-stop"

    @property
    def reason(self) -> Reason:
        """Why the attempt ended that stopped so."""
        return _REASONS[self]


_REASONS = {
    StopReason.CANCEL: Reason.CANCELLED,
    StopReason.TIME_LIMIT: Reason.TIME_LIMIT,
    StopReason.PAUSE: Reason.PAUSED,
    StopReason.PREEMPT: Reason.PREEMPTED,
    StopReason.EARLY_STOP: Reason.EARLY_STOPPED,
}


class SearchState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Nothing of it runs; only an extension brings it back."""
        return self in _ENDED_SEARCHES

    @property
    def wants_driver(self) -> bool:
        return self in {SearchState.QUEUED, SearchState.RUNNING}


_ENDED_SEARCHES = frozenset({SearchState.SUCCEEDED, SearchState.FAILED, SearchState.CANCELLED})
_AFTER_A_SEARCH = _ENDED_SEARCHES | {SearchState.PAUSED}

NEXT_SEARCH_STATES: dict[SearchState, frozenset[SearchState]] = {
    SearchState.QUEUED: _AFTER_A_SEARCH | {SearchState.RUNNING},
    SearchState.RUNNING: _AFTER_A_SEARCH | {SearchState.QUEUED},
    SearchState.PAUSED: frozenset({SearchState.QUEUED, SearchState.CANCELLED}),
    SearchState.SUCCEEDED: frozenset({SearchState.QUEUED}),
    SearchState.FAILED: frozenset(),
    SearchState.CANCELLED: frozenset(),
}


class SearchEndReason(StrEnum):
    """Why a search has ended."""

    TRIALS = "trials"  # all trials of its budget have ended
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
    """How a job that is waited for must have ended."""

    OK = "ok"  # succeeded
    ANY = "any"


class DeliveryState(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class CheckpointPart(StrEnum):
    """The files of a checkpoint."""

    WEIGHTS = "weights"  # safetensors: the state_dict, with the spec in the metadata
    STATE = "state"  # safetensors: optimizer and cursor, what resuming needs beside the weights
    PT = "pt"  # the same weights as a state_dict that torch.load(weights_only=True) reads
    ONNX = "onnx"  # of a finished training: the network for ONNX Runtime
    PROGRAM = "pt2"  # of a finished training: a torch.export program
    CARD = "card"  # of a finished training: what it is, in Markdown
