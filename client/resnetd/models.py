"""What the service answers, as frozen records.

Fields with a default may be missing from an older server's answer. Errors are percent, times
are aware, sizes are bytes.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from resnetd.decoding import OpenEnum, Record


class JobState(OpenEnum):
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
        return self in {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}


class Reason(OpenEnum):
    """Why a job's last attempt ended."""

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


class EventKind(OpenEnum):
    SUBMITTED = "submitted"
    STATE = "state"
    STOP_REQUESTED = "stop-requested"
    CHANGED = "changed"
    ATTEMPT = "attempt"
    CHECKPOINT = "checkpoint"
    PROGRESS = "progress"  # on the stream only, without a number


@dataclass(frozen=True, kw_only=True)
class Progress(Record):
    """`metrics` holds the newest value of each series, None where it was not a finite number."""

    iteration: int
    iterations: int
    percent: float
    images_per_second: float | None = None
    eta_seconds: float | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Result(Record):
    train_error: float | None = None
    test_error: float | None = None
    training_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Standing(Record):
    """Why a job waits, as a code and in words. Nine of ten jobs start by `starts_p90`."""

    code: str
    message: str
    position: int | None = None
    effective_priority: float | None = None
    starts_p50: datetime | None = None
    starts_p90: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class WaitingJob(Record):
    job_id: str
    name: str
    state: JobState
    waiting: Standing
    priority: int | None = None


@dataclass(frozen=True, kw_only=True)
class Span(Record):
    """Minutes, as expected and as nine of ten are."""

    p50: float
    p90: float


@dataclass(frozen=True, kw_only=True)
class Plan(Record):
    """What a spec would become; None where nothing is known. Memory is each worker's."""

    spec: dict[str, Any]
    network: str
    waiting: Standing
    parameters: int | None = None
    multiply_adds: int | None = None
    memory_bytes: int | None = None
    minutes: Span | None = None


@dataclass(frozen=True, kw_only=True)
class Job(Record):
    """`progress` and `parameters` are None until training is up, `result` until it succeeded."""

    id: str
    name: str
    network: str
    state: JobState
    spec: dict[str, Any]
    created_at: datetime
    reason: Reason | None = None
    message: str | None = None
    user: str | None = None
    priority: int | None = None
    waiting: Standing | None = None
    stop_requested: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: int = 0
    restarts: int = 0
    preemptions: int = 0
    progress: Progress | None = None
    parameters: int | None = None
    result: Result | None = None

    @property
    def is_final(self) -> bool:
        """Also in a state that only a newer server knows: what has finished will not change."""
        return self.state.is_final or self.finished_at is not None


@dataclass(frozen=True, kw_only=True)
class Event(Record):
    """`number` counts a job's events from 1; None for progress, which is not kept."""

    kind: EventKind
    number: int | None = None
    at: datetime | None = None
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def makes_final(self) -> bool:
        """Whether nothing follows it."""
        return self.kind == EventKind.STATE and JobState(str(self.data.get("to"))).is_final


@dataclass(frozen=True, kw_only=True)
class LogLine(Record):
    number: int
    attempt: int
    at: datetime
    level: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Attempt(Record):
    """One execution of a job on the cluster."""

    number: int
    state: str
    id: str | None = None
    num_workers: int | None = None
    reason: Reason | None = None
    blame: str | None = None
    message: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Part(Record):
    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Record):
    id: str
    job_id: str
    attempt: int
    iteration: int
    created_at: datetime
    size_bytes: int
    test_error: float | None = None
    train_error: float | None = None
    parts: dict[str, Part] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Series(Record):
    """`values[i]` was measured after `iterations[i]` steps; None where it was not finite."""

    iterations: tuple[int, ...]
    values: tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Dataset(Record):
    """Height and width of an image in pixels; None where the images decide.

    `available`: whether the service sees its images; else they are fetched, or missing.
    """

    name: str
    title: str = ""
    origin: str | None = None
    classes: int | None = None
    height: int | None = None
    width: int | None = None
    train_images: int | None = None
    test_images: int | None = None
    default_recipe: str | None = None
    available: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe(Record):
    """`source`: where it comes from; `fields`: as they are for ResNet-20."""

    name: str
    source: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Cluster(Record):
    """`cpus` and `gpus` in all: None until the cluster was seen."""

    cpus: int | None = None
    gpus: int | None = None
    reserved_cpus: int = 0
    reserved_gpus: float = 0
    seen_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Webhook(Record):
    """`secret` is in the answer that made it only."""

    id: str
    url: str
    states: tuple[str, ...] = ()
    user: str | None = None
    created_at: datetime | None = None
    secret: str | None = None


@dataclass(frozen=True, kw_only=True)
class Delivery(Record):
    """`status`: of the last answer; `error`: why there was none."""

    id: str
    state: str
    payload: dict[str, Any] = field(default_factory=dict)
    tries: int = 0
    status: int | None = None
    error: str | None = None
    created_at: datetime | None = None
    delivered_at: datetime | None = None
