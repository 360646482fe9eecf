"""The states of jobs, attempts and runners, the moves between them, and why attempts end.

    queued ──claimed──► starting ──first report──► running ──► succeeded
      ▲ │                  │                          ├──────► failed
      │ └─cancel────────┐  │                          │
      └──attempt ended──┼──┴──────────────────────────┤
         and tried again└───────────────────────────► └──────► cancelled

Cancelling a running job is a request (a column of the job), not a state: the job moves when
its attempt has ended.
"""

from enum import StrEnum


class JobState(StrEnum):
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return not NEXT_STATES[self]


NEXT_STATES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.STARTING, JobState.FAILED, JobState.CANCELLED}),
    JobState.STARTING: frozenset(
        {
            JobState.QUEUED,
            JobState.RUNNING,
            JobState.SUCCEEDED,
            JobState.FAILED,
            JobState.CANCELLED,
        }
    ),
    JobState.RUNNING: frozenset(
        {JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}
    ),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}

FINAL_STATES = frozenset(state for state in JobState if state.is_final)


class AttemptState(StrEnum):
    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"


class RunnerState(StrEnum):
    """Ready is who has asked for something to do; who has it or waits for it, alike."""

    PLANNED = "planned"
    STARTING = "starting"
    READY = "ready"
    LEAVING = "leaving"
    GONE = "gone"


class Fault(StrEnum):
    """Whose fault the end of an attempt is; only the user's count against max_restarts."""

    USER = "user"
    INFRASTRUCTURE = "infrastructure"
    PLATFORM = "platform"


class Reason(StrEnum):
    """Why an attempt ended."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    TIME_LIMIT = "time-limit"
    DATASET_MISSING = "dataset-missing"
    DIVERGED = "diverged"
    TRAINING_ERROR = "training-error"
    OUT_OF_MEMORY = "out-of-memory"
    WORKER_DIED = "worker-died"
    SILENT = "silent"
    START_TIMEOUT = "start-timeout"
    LOST = "lost"
    DELIVERY_FAILED = "delivery-failed"
    INTERNAL = "internal"

    @property
    def fault(self) -> Fault | None:
        """None where nobody is at fault: the attempt completed or was cancelled."""
        return _FAULTS[self]

    @property
    def is_retried(self) -> bool:
        """Whether another attempt could end differently."""
        return self in _RETRIED


_FAULTS: dict[Reason, Fault | None] = {
    Reason.COMPLETED: None,
    Reason.CANCELLED: None,
    Reason.TIME_LIMIT: Fault.USER,
    Reason.DATASET_MISSING: Fault.USER,
    Reason.DIVERGED: Fault.USER,
    Reason.TRAINING_ERROR: Fault.USER,
    Reason.OUT_OF_MEMORY: Fault.USER,
    Reason.WORKER_DIED: Fault.INFRASTRUCTURE,
    Reason.SILENT: Fault.INFRASTRUCTURE,
    Reason.START_TIMEOUT: Fault.INFRASTRUCTURE,
    Reason.LOST: Fault.INFRASTRUCTURE,
    Reason.DELIVERY_FAILED: Fault.INFRASTRUCTURE,
    Reason.INTERNAL: Fault.PLATFORM,
}

_RETRIED = frozenset(
    {
        Reason.TRAINING_ERROR,
        Reason.OUT_OF_MEMORY,
        Reason.WORKER_DIED,
        Reason.SILENT,
        Reason.START_TIMEOUT,
        Reason.LOST,
        Reason.DELIVERY_FAILED,
        Reason.INTERNAL,
    }
)


class StopReason(StrEnum):
    """What a training process is told when it should stop at the next step boundary."""

    CANCEL = "cancel"
    TIME_LIMIT = "time-limit"
