"""The end of a search: by its budget, or by its driver."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from service.searches import lifecycle, ranking, records, trials
from service.searches.ranking import Trial
from service.specs.search_spec import Metric
from service.states import FINAL_STATES, SearchEndReason, SearchState
from service.storage.tables import SearchRow
from service.text import count_of


def enforce_budget(session: Session, search: SearchRow, *, now: datetime) -> None:
    """Ends a running search whose budget is used up."""
    if search.state is not SearchState.RUNNING:
        return
    spec = records.spec_of(search)
    budget = spec.budget
    seconds = lifecycle.active_seconds(search, now=now)
    if budget.wall_seconds is not None and seconds >= budget.wall_seconds:
        message = f"the wall time of {budget.wall_seconds:g} s is used up"
        finish_search(session, search, SearchEndReason.WALL_TIME, message=message, now=now)
        return
    if budget.iterations is None and budget.target_error is None:
        return
    ranked = ranking.rank_trials(session, search)
    done = ranking.sum_iterations(ranked)
    if budget.iterations is not None and done >= budget.iterations:
        limit = count_of(budget.iterations, "iteration")
        message = f"the trials have trained {done:,} of {limit}"
        finish_search(session, search, SearchEndReason.ITERATIONS, message=message, now=now)
        return
    metric, target = spec.metric[0], budget.target_error
    best = _find_best(ranked, metric)
    if target is not None and best is not None and best.values[metric] <= target:
        message = (
            f"trial {best.row.number} reached {metric} {best.values[metric]:g} (target {target:g})"
        )
        # Its job continues to its end: it is the result of the search.
        finish_search(
            session,
            search,
            SearchEndReason.TARGET,
            message=message,
            now=now,
            kept_job_id=best.job.id,
        )


def finish_search(
    session: Session,
    search: SearchRow,
    end_reason: SearchEndReason,
    *,
    message: str,
    now: datetime,
    kept_job_id: str | None = None,
) -> None:
    """Ends the search and stops its unfinished trials early, except that of job `kept_job_id`."""
    for trial, job in records.list_trials(session, search.id):
        if job.state not in FINAL_STATES and job.id != kept_job_id:
            trials.stop(session, search, trial, message=message, now=now)
    has_result = any(trial.rank is not None for trial in ranking.rank_trials(session, search))
    if not has_result and end_reason is SearchEndReason.TRIALS:
        end_reason = SearchEndReason.NO_TRIAL
    has_succeeded = has_result and end_reason is not SearchEndReason.DRIVER
    state = SearchState.SUCCEEDED if has_succeeded else SearchState.FAILED
    lifecycle.transition(session, search, state, end_reason=end_reason, message=message, now=now)


def _find_best(ranked: Sequence[Trial], metric: Metric) -> Trial | None:
    """The ranked trial with the least value of one metric."""
    measured = [trial for trial in ranked if trial.rank is not None and metric in trial.values]
    return min(measured, key=lambda trial: trial.values[metric], default=None)
