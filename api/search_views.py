"""Responses about searches, made from rows."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from api.stored_json import StoredAs
from api.views import View
from service.searches.importance import Importance
from service.searches.ranking import SearchProgress, Trial
from service.specs.search_spec import Metric, SearchSpec
from service.states import JobState, Reason, SearchEndReason, SearchState
from service.storage.tables import SearchRow


class TrialView(View):
    """`values` are the newest; `rank` is the number of better trials, null without values.

    With repeats `values` are means over the jobs, and `job_id` is that of the first seed.
    """

    number: int
    job_id: str
    job_ids: Annotated[list[str], Field(description="a job for each seed")]
    state: JobState
    reason: Reason | None
    params: dict[str, Any]
    values: dict[Metric, float]
    stds: Annotated[
        dict[Metric, float], Field(description="of the values over the seeds, with repeats")
    ]
    rank: int | None
    iteration: int
    stop_reason: Annotated[str | None, Field(description="why the search stopped it early")]

    @classmethod
    def of(cls, trial: Trial) -> "TrialView":
        return cls(
            number=trial.row.number,
            job_id=trial.job.id,
            job_ids=[job.id for job in trial.jobs],
            state=trial.state,
            reason=trial.reason,
            params=trial.row.params,
            values=dict(trial.values),
            stds=dict(trial.stds),
            rank=trial.rank,
            iteration=trial.iteration,
            stop_reason=trial.stop_reason,
        )


class TrialList(View):
    """The best first."""

    trials: list[TrialView]

    @classmethod
    def of(cls, trials: Sequence[Trial]) -> "TrialList":
        return cls(trials=[TrialView.of(trial) for trial in trials])


class BudgetUsedView(View):
    """`wall_seconds`: null in streams, which report changes only."""

    trials: int
    iterations: int
    wall_seconds: float | None


class SearchView(View):
    """`best`, `counts` and `used` are null in lists."""

    id: str
    name: str
    state: SearchState
    spec: Annotated[dict[str, Any], StoredAs(SearchSpec)]
    end_reason: Annotated[SearchEndReason | None, Field(description="why it ended")]
    message: str | None
    user: str
    note: str
    starred: bool
    archived: Annotated[bool, Field(description="left out of lists")]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    drivers: Annotated[int, Field(description="how often a Ray Tune driver was started for it")]
    best: Annotated[
        list[TrialView] | None,
        Field(description="the best trial so far; with several metrics the Pareto front"),
    ]
    counts: Annotated[dict[JobState, int] | None, Field(description="trials by state")]
    used: BudgetUsedView | None

    @classmethod
    def of(cls, search: SearchRow, progress: SearchProgress | None = None) -> "SearchView":
        used = progress and BudgetUsedView(
            trials=len(progress.trials),
            iterations=progress.iterations,
            wall_seconds=progress.wall_seconds,
        )
        return cls(
            id=search.id,
            name=search.name,
            state=search.state,
            spec=search.spec,
            end_reason=search.end_reason,
            message=search.message,
            user=search.user,
            note=search.note,
            starred=search.starred,
            archived=search.archived,
            created_at=search.created_at,
            started_at=search.started_at,
            finished_at=search.finished_at,
            drivers=search.driver_number,
            best=[TrialView.of(trial) for trial in progress.best] if progress else None,
            counts=progress.counts if progress else None,
            used=used,
        )


class SearchPage(View):
    searches: list[SearchView]
    next_page_token: str | None


class SelectedSearchPage(View):
    """Of a request with `fields`: each search has only the members that they name."""

    searches: list[dict[str, Any]]
    next_page_token: str | None


class ImportanceView(View):
    """Each field's share of the variance; empty where fewer than four trials have succeeded."""

    trials: int
    shares: Mapping[str, float]


class ImportanceList(View):
    importance: dict[Metric, ImportanceView]

    @classmethod
    def of(cls, importances: Sequence[Importance]) -> "ImportanceList":
        return cls(
            importance={
                importance.metric: ImportanceView(
                    trials=importance.trials, shares=importance.shares
                )
                for importance in importances
            }
        )
