"""What people are answered about searches, made from rows."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from api.views import View
from service.searches import searches
from service.searches.importance import Importance
from service.searches.trials import SearchProgress, Trial
from service.specs.search_spec import Metric, SearchSpec
from service.states import JobState, Reason, SearchEndReason, SearchState
from service.storage.tables import SearchRow


class TrialView(View):
    """`values` are the newest; `rank` counts the trials that are better, null without values."""

    number: int
    job_id: str
    state: JobState
    reason: Reason | None
    params: dict[str, Any]
    values: dict[Metric, float]
    rank: int | None
    iteration: int
    stop_reason: Annotated[str | None, Field(description="why the search has stopped it early")]

    @classmethod
    def of(cls, trial: Trial) -> "TrialView":
        job = trial.job
        return cls(
            number=trial.row.number,
            job_id=job.id,
            state=job.state,
            reason=job.reason,
            params=trial.row.params,
            values=dict(trial.values),
            rank=trial.rank,
            iteration=job.progress["iteration"] if job.progress is not None else 0,
            stop_reason=trial.stop_reason,
        )


class TrialList(View):
    """The best first."""

    trials: list[TrialView]

    @classmethod
    def of(cls, standing: SearchProgress) -> "TrialList":
        return cls(trials=[TrialView.of(trial) for trial in standing.trials])


class BudgetUsedView(View):
    """How much of the budget is used; no wall time on the stream, where it would never stand."""

    trials: int
    iterations: int
    wall_seconds: float | None


class SearchView(View):
    """`best`, `counts` and `used` are null in lists."""

    id: str
    name: str
    state: SearchState
    spec: SearchSpec
    end_reason: Annotated[SearchEndReason | None, Field(description="why it has ended")]
    message: str | None
    user: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    drivers: Annotated[int, Field(description="how often Ray Tune was started for it")]
    best: Annotated[
        list[TrialView] | None,
        Field(description="the best trial so far; of several metrics all that none beats in all"),
    ]
    counts: Annotated[dict[JobState, int] | None, Field(description="trials by state")]
    used: BudgetUsedView | None

    @classmethod
    def of(cls, search: SearchRow, standing: SearchProgress | None = None) -> "SearchView":
        used = standing and BudgetUsedView(
            trials=len(standing.trials),
            iterations=standing.iterations,
            wall_seconds=standing.wall_seconds,
        )
        return cls(
            id=search.id,
            name=search.name,
            state=search.state,
            spec=searches.spec_of(search),
            end_reason=search.end_reason,
            message=search.message,
            user=search.user,
            created_at=search.created_at,
            started_at=search.started_at,
            finished_at=search.finished_at,
            drivers=search.driver_number,
            best=[TrialView.of(trial) for trial in standing.best] if standing else None,
            counts=standing.counts if standing else None,
            used=used,
        )


class SearchPage(View):
    searches: list[SearchView]
    next_page_token: str | None


class ImportanceView(View):
    """Each field's share of the variance; empty where fewer than four trials have succeeded."""

    trials: int
    shares: Mapping[str, float]


class ImportanceList(View):
    importance: dict[Metric, ImportanceView]

    @classmethod
    def of(cls, found: list[Importance]) -> "ImportanceList":
        return cls(
            importance={
                one.metric: ImportanceView(trials=one.trials, shares=one.shares) for one in found
            }
        )
