"""The end of a search: by its budget, or by its driver."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.searches import lifecycle, ranking, records, trials
from service.specs.search_spec import Budget, Metric
from service.states import JobState, SearchEndReason, SearchState
from service.storage.tables import JobRow, SearchRow, TrialRow
from service.text import count_of


def is_used_up(session: Session, search: SearchRow, *, now: datetime) -> bool:
    """Whether `enforce_budget` may end the search; without a lock."""
    return _find_end(session, search, now=now) is not None


def enforce_budget(session: Session, search: SearchRow, *, now: datetime) -> None:
    """Ends a running search whose budget is used up."""
    end = _find_end(session, search, now=now)
    if end is not None:
        finish_search(
            session,
            search,
            end.reason,
            message=end.message,
            now=now,
            kept_job_id=end.kept_job_id,
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
    for trial, job in records.lock_unfinished_trials(session, search.id):
        if job.id != kept_job_id:
            trials.stop(session, search, trial, message=message, now=now)
    has_result = any(trial.rank is not None for trial in ranking.rank_trials(session, search))
    if not has_result and end_reason is SearchEndReason.TRIALS:
        end_reason = SearchEndReason.NO_TRIAL
    has_succeeded = has_result and end_reason is not SearchEndReason.DRIVER
    state = SearchState.SUCCEEDED if has_succeeded else SearchState.FAILED
    lifecycle.transition(session, search, state, end_reason=end_reason, message=message, now=now)


@dataclass(frozen=True)
class _End:
    """`kept_job_id`: a job that continues to its own end, since it is the search's result."""

    reason: SearchEndReason
    message: str
    kept_job_id: str | None = None


def _find_end(session: Session, search: SearchRow, *, now: datetime) -> _End | None:
    """None while the search is not running, or something of its budget is left."""
    if search.state is not SearchState.RUNNING:
        return None
    spec = records.spec_of(search)
    budget = spec.budget
    seconds = lifecycle.count_active_seconds(search, now=now)
    if budget.wall_seconds is not None and seconds >= budget.wall_seconds:
        message = f"the wall time of {budget.wall_seconds:g} s is used up"
        return _End(SearchEndReason.WALL_TIME, message)
    return _find_iterations_end(session, search, budget) or _find_target_end(
        session, search, budget, spec.metric
    )


def _find_iterations_end(session: Session, search: SearchRow, budget: Budget) -> _End | None:
    if budget.iterations is None:
        return None
    done = session.scalar(
        select(func.sum(JobRow.progress["iteration"].as_integer()))
        .join(TrialRow, TrialRow.job_id == JobRow.id)
        .where(TrialRow.search_id == search.id)
    )
    if done is None or done < budget.iterations:
        return None
    limit = count_of(budget.iterations, "iteration")
    return _End(SearchEndReason.ITERATIONS, f"the trials have trained {done:,} of {limit}")


def _find_target_end(
    session: Session, search: SearchRow, budget: Budget, metrics: tuple[Metric, ...]
) -> _End | None:
    """By the trial with the least value of the first metric, of those with all reported metrics."""
    if budget.target_error is None:
        return None
    value = JobRow.latest_metrics[metrics[0]].as_float()
    reported = [JobRow.latest_metrics[metric].as_float() for metric in metrics if metric.is_series]
    best = session.execute(
        select(TrialRow.number, JobRow.id, value)
        .join(JobRow, JobRow.id == TrialRow.job_id)
        .where(
            TrialRow.search_id == search.id,
            JobRow.state != JobState.FAILED,
            value <= budget.target_error,
            *(other.is_not(None) for other in reported),
        )
        .order_by(value, TrialRow.number)
        .limit(1)
    ).one_or_none()
    if best is None:
        return None
    number, job_id, reached = best
    message = f"trial {number} reached {metrics[0]} {reached:g} (target {budget.target_error:g})"
    return _End(SearchEndReason.TARGET, message, kept_job_id=job_id)
