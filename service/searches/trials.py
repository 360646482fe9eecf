"""Trials: what a search's driver makes and follows, and how they compare."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound
from service.jobs import commands, records, submission
from service.searches import searches
from service.searches.searches import SearchEventKind
from service.specs import search_space
from service.specs.job_spec import JobSpec
from service.specs.protocol import AssignedTrial, NextEvaluationResponse, TrialEvaluation
from service.specs.search_spec import Metric, SearchSpec
from service.states import FINAL_STATES, JobState, Reason, SearchEndReason, SearchState
from service.storage.tables import AttemptRow, JobRow, MetricRow, SearchRow, TrialRow

# What every evaluation reports.
_EVALUATION_SERIES = Metric.TEST_ERROR


@dataclass(frozen=True)
class Trial:
    """`rank` counts the trials that are better, None where nothing was measured.

    With several metrics, those that beat it in all: rank 0 is the Pareto front.
    """

    row: TrialRow
    job: JobRow
    values: Mapping[Metric, float]
    rank: int | None

    @property
    def stop_reason(self) -> str | None:
        """Why its search has stopped it; None where it had ended before it could be."""
        return self.row.stop_reason if self.job.reason is Reason.EARLY_STOPPED else None


def rank_trials(session: Session, search: SearchRow) -> list[Trial]:
    """The best first; those without a value last."""
    metric = searches.spec_of(search).metric
    pairs = searches.list_trials(session, search.id)
    seconds = (
        _training_seconds(session, [job for _, job in pairs]) if Metric.SECONDS in metric else {}
    )
    measured = [(row, job, _values(job, metric, seconds)) for row, job in pairs]
    # A job that has failed leaves no network that would go with its values.
    points = [
        tuple(values[one] for one in metric)
        for _, job, values in measured
        if len(values) == len(metric) and job.state is not JobState.FAILED
    ]
    trials = []
    for row, job, values in measured:
        rank = None
        if len(values) == len(metric) and job.state is not JobState.FAILED:
            rank = sum(_dominates(other, tuple(values[one] for one in metric)) for other in points)
        trials.append(Trial(row=row, job=job, values=values, rank=rank))
    return sorted(trials, key=lambda one: (one.rank is None, one.rank, one.row.number))


def pick_best(trials: Sequence[Trial]) -> list[Trial]:
    """The first of one metric's, the front of several."""
    front = [trial for trial in trials if trial.rank == 0]
    return front[:1] if front and len(front[0].values) == 1 else front


def sum_iterations(trials: Sequence[Trial]) -> int:
    return sum(trial.job.progress["iteration"] for trial in trials if trial.job.progress)


def assign_trial(
    session: Session, search: SearchRow, *, tune_id: str, params: dict[str, Any], now: datetime
) -> AssignedTrial:
    """The trial with these parameters that the driver does not follow yet, or a new one.

    So a driver that begins again finds the trials of the one before it, and none runs twice.
    Conflict where the search has all its trials, InvalidInput where the parameters make no job.
    """
    driver_trial_id = _driver_trial_id(search, tune_id)
    known = list(session.scalars(select(TrialRow).where(TrialRow.search_id == search.id)))
    mine = f"{search.driver_number}/"
    trial = next((one for one in known if one.driver_trial_id == driver_trial_id), None) or next(
        (one for one in known if one.params == params and not one.driver_trial_id.startswith(mine)),
        None,
    )
    if trial is not None:
        trial.driver_trial_id = driver_trial_id
        return AssignedTrial(number=trial.number, job_id=trial.job_id)
    spec = searches.spec_of(search)
    if len(known) >= spec.trials:
        raise Conflict(f"search {search.id} has its {spec.trials} trials already")
    number = len(known) + 1
    written = _job_spec(search, spec, params, number)
    job = submission.submit(session, written, user=search.user, now=now).job
    trial = TrialRow(
        search_id=search.id,
        number=number,
        job_id=job.id,
        params=params,
        driver_trial_id=driver_trial_id,
        is_paused=False,
    )
    session.add(trial)
    search.driver_failures = 0
    data = {"number": number, "job_id": job.id, "params": params}
    searches.append_event(session, search, SearchEventKind.TRIAL, data, now=now)
    return AssignedTrial(number=number, job_id=job.id)


def find_next_evaluation(
    session: Session, search: SearchRow, *, tune_id: str, after: int
) -> NextEvaluationResponse | None:
    """The first evaluation after so many iterations, or the trial's end; None: neither yet.

    The last evaluation is told once the job has ended: what follows it, nobody waits for.
    """
    trial = _find_assigned(session, search, tune_id)
    job = records.find_job(session, trial.job_id)
    metric = searches.spec_of(search).metric
    marks = session.scalars(
        select(MetricRow.iteration)
        .where(
            MetricRow.job_id == job.id,
            MetricRow.series == _EVALUATION_SERIES,
            MetricRow.iteration > after,
        )
        .order_by(MetricRow.iteration)
    )
    measured = ((mark, _values_at(session, job, metric, mark)) for mark in marks)
    # One that was not finite is passed over.
    whole = [(mark, values) for mark, values in measured if len(values) == len(metric)]
    is_last = job.state in FINAL_STATES and len(whole) <= 1
    if job.state is JobState.FAILED and is_last:
        return NextEvaluationResponse(failure=f"job {job.id} has failed: {job.message}"[:2000])
    if is_last and not whole:
        whole = [(after, _values_at(session, job, metric, after))]
        if len(whole[0][1]) < len(metric):
            return NextEvaluationResponse(
                failure=f"job {job.id} was {job.state} before it was measured"
            )
    if not whole or (whole[0][0] >= job.iterations and not is_last):
        return None
    iteration, values = whole[0]
    return NextEvaluationResponse(
        evaluation=TrialEvaluation(iteration=iteration, values=values, is_last=is_last)
    )


def stop_trial(
    session: Session, search: SearchRow, *, tune_id: str, iteration: int, now: datetime
) -> bool:
    """Stops a trial for its scheduler, which has seen the evaluation at that iteration.

    False where its job has ended by itself.
    """
    trial = _find_assigned(session, search, tune_id)
    spec = searches.spec_of(search)
    job = records.find_job(session, trial.job_id)
    values = _values_at(session, job, spec.metric, iteration)
    told = ", ".join(f"{metric} {value:g}" for metric, value in values.items())
    why = f"{spec.scheduler.name} stopped it: at iteration {iteration} it had {told or 'no value'}"
    return _stop(session, search, trial, why=why, now=now)


def enforce_budget(session: Session, search: SearchRow, *, now: datetime) -> None:
    """Ends a running search whose budget is used up."""
    if search.state is not SearchState.RUNNING:
        return
    spec = searches.spec_of(search)
    budget = spec.budget
    active = searches.active_seconds(search, now=now)
    if budget.wall_seconds is not None and active >= budget.wall_seconds:
        why = f"{budget.wall_seconds:g} s of wall time are over"
        finish_search(session, search, SearchEndReason.WALL_TIME, why=why, now=now)
        return
    if budget.iterations is None and budget.target_error is None:
        return
    trials = rank_trials(session, search)
    done = sum_iterations(trials)
    if budget.iterations is not None and done >= budget.iterations:
        why = f"the trials have done {done} iterations of {budget.iterations}"
        finish_search(session, search, SearchEndReason.ITERATIONS, why=why, now=now)
        return
    target = budget.target_error
    first = spec.metric[0]
    attained = [one for one in trials if one.rank is not None and first in one.values]
    nearest = min(attained, key=lambda one: one.values[first], default=None)
    if target is not None and nearest is not None and nearest.values[first] <= target:
        why = (
            f"trial {nearest.row.number} has {first} {nearest.values[first]:g}, {target:g} is asked"
        )
        # The one that has attained it goes on to its end: its job is the search's result.
        kept = nearest.job.id
        finish_search(session, search, SearchEndReason.TARGET, why=why, now=now, kept=kept)


def finish_search(
    session: Session,
    search: SearchRow,
    end_reason: SearchEndReason,
    *,
    why: str,
    now: datetime,
    kept: str | None = None,
) -> None:
    """Ends the search; what runs of it is stopped early, but for the job `kept`."""
    for trial, job in searches.list_trials(session, search.id):
        if job.state not in FINAL_STATES and job.id != kept:
            _stop(session, search, trial, why=why, now=now)
    has_any = any(trial.rank is not None for trial in rank_trials(session, search))
    state = SearchState.SUCCEEDED if has_any else SearchState.FAILED
    if not has_any and end_reason is SearchEndReason.TRIALS:
        end_reason = SearchEndReason.NO_TRIAL
    if end_reason is SearchEndReason.DRIVER:
        state = SearchState.FAILED
    searches.transition(session, search, state, end_reason=end_reason, message=why, now=now)


def _stop(session: Session, search: SearchRow, trial: TrialRow, *, why: str, now: datetime) -> bool:
    if not commands.stop_early(session, trial.job_id, why=why, now=now):
        return False
    trial.stop_reason = why
    data = {"number": trial.number, "job_id": trial.job_id, "stopped": why}
    searches.append_event(session, search, SearchEventKind.TRIAL, data, now=now)
    return True


def _job_spec(
    search: SearchRow, spec: SearchSpec, params: Mapping[str, Any], number: int
) -> JobSpec:
    """A trial's own: named after its search, and found by the tag of it."""
    trial = search_space.make_trial_spec(spec.job, params)
    return trial.model_copy(
        update={
            "name": f"{search.name} #{number}",
            "tags": (*trial.tags, f"search:{search.id}"),
        }
    )


def _driver_trial_id(search: SearchRow, tune_id: str) -> str:
    return f"{search.driver_number}/{tune_id}"


def _find_assigned(session: Session, search: SearchRow, tune_id: str) -> TrialRow:
    trial = session.scalar(
        select(TrialRow).where(
            TrialRow.search_id == search.id,
            TrialRow.driver_trial_id == _driver_trial_id(search, tune_id),
        )
    )
    if trial is None:
        raise NotFound(f"search {search.id} has no trial that {tune_id} follows")
    return trial


def _values(
    job: JobRow, metric: Sequence[Metric], seconds: Mapping[str, float]
) -> dict[Metric, float]:
    """The newest of each that there is."""
    found: dict[Metric, float | None] = {}
    for one in metric:
        if one is Metric.PARAMETERS:
            found[one] = job.environment["parameters"] if job.environment is not None else None
        elif one is Metric.SECONDS:
            found[one] = seconds.get(job.id)
        else:
            found[one] = job.latest_metrics.get(one)
    return {one: float(value) for one, value in found.items() if value is not None}


def _values_at(
    session: Session, job: JobRow, metric: Sequence[Metric], iteration: int
) -> dict[str, float]:
    rows = session.execute(
        select(MetricRow.series, MetricRow.value).where(
            MetricRow.job_id == job.id,
            MetricRow.iteration == iteration,
            MetricRow.series.in_([one.value for one in metric]),
        )
    )
    # A value that was not finite is none.
    found = {series: value for series, value in rows if value is not None}
    others = [one for one in metric if not one.is_series]
    seconds = _training_seconds(session, [job]) if Metric.SECONDS in others else {}
    return found | {one.value: value for one, value in _values(job, others, seconds).items()}


def _training_seconds(session: Session, found: Sequence[JobRow]) -> dict[str, float]:
    """By job, the seconds of training: as it told at its end, before from its attempts."""
    told = {job.id: job.result["training_seconds"] for job in found if job.result is not None}
    rows = session.execute(
        select(
            AttemptRow.job_id,
            AttemptRow.started_at,
            func.coalesce(AttemptRow.ended_at, AttemptRow.last_report_at),
        ).where(
            AttemptRow.job_id.in_([job.id for job in found if job.id not in told]),
            AttemptRow.started_at.is_not(None),
        )
    )
    counted: dict[str, float] = {}
    for job_id, began, ended in rows:
        assert began is not None, "selected so"
        counted[job_id] = counted.get(job_id, 0.0) + (ended - began).total_seconds()
    return counted | told


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Nowhere worse, and somewhere better."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


@dataclass(frozen=True)
class SearchProgress:
    """Where a search stands: its trials by rank, and how much of its budget is used."""

    trials: Sequence[Trial]
    iterations: int
    wall_seconds: float | None

    @property
    def best(self) -> list[Trial]:
        return pick_best(self.trials)

    @property
    def counts(self) -> dict[JobState, int]:
        """Of the trials in each state that any is in."""
        return dict(Counter(trial.job.state for trial in self.trials))


def read_progress(session: Session, search: SearchRow, *, now: datetime | None) -> SearchProgress:
    """`now` None: without what changes from second to second."""
    found = rank_trials(session, search)
    wall_seconds = None if now is None else searches.active_seconds(search, now=now)
    return SearchProgress(trials=found, iterations=sum_iterations(found), wall_seconds=wall_seconds)
