"""What the service answers about searches, as frozen records. Errors are percent."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from resnetd.decoding import OpenEnum, Record
from resnetd.models import JobState, Reason


class SearchState(OpenEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in {SearchState.SUCCEEDED, SearchState.FAILED, SearchState.CANCELLED}


@dataclass(frozen=True, kw_only=True)
class Trial(Record):
    """A job of a search. `rank` counts the trials that are better; None without a value."""

    number: int
    job_id: str
    state: JobState
    params: dict[str, Any]
    values: dict[str, float] = field(default_factory=dict)
    rank: int | None = None
    reason: Reason | None = None
    iteration: int = 0
    stop_reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Used(Record):
    """How much of the budget is used."""

    trials: int = 0
    iterations: int = 0
    wall_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Search(Record):
    """`best` is the best trial so far; of several metrics, all that none beats in all of them."""

    id: str
    name: str
    state: SearchState
    spec: dict[str, Any]
    created_at: datetime
    end_reason: str | None = None
    message: str | None = None
    user: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    best: tuple[Trial, ...] | None = None
    counts: dict[str, int] | None = None
    used: Used | None = None

    @property
    def is_final(self) -> bool:
        return self.state.is_final or self.finished_at is not None


@dataclass(frozen=True, kw_only=True)
class Importance(Record):
    """Each field's share of a metric's variance; empty where too few trials have succeeded."""

    trials: int
    shares: dict[str, float] = field(default_factory=dict)
