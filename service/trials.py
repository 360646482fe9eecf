"""Trials: what a search's driver makes and follows, and how they compare."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service import jobs, search_space, searches, steering
from service.errors import Conflict, NotFound
from service.search_reports import Evaluation, FollowedTrial, TrialAnswer
from service.search_spec import Metric, SearchSpec
from service.search_tables import SearchRow, TrialRow
from service.searches import SearchEventKind
from service.spec import JobSpec
from service.states import FINAL_STATES, JobState, Reason, SearchEnd, SearchState
from service.tables import AttemptRow, JobRow, MetricRow

# What every evaluation reports.
_MARK = Metric.TEST_ERROR


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
    def why(self) -> str | None:
        """Why its search has stopped it; None where it had ended before it could be."""
        return self.row.why if self.job.reason is Reason.EARLY_STOPPED else None


def ranked(session: Session, search: SearchRow) -> list[Trial]:
    """The best first; those without a value last."""
    metric = searches.spec_of(search).metric
    pairs = searches.trials_of(session, search.id)
    seconds = _seconds(session, [job for _, job in pairs]) if Metric.SECONDS in metric else {}
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
            rank = sum(_beats(other, tuple(values[one] for one in metric)) for other in points)
        trials.append(Trial(row=row, job=job, values=values, rank=rank))
    return sorted(trials, key=lambda one: (one.rank is None, one.rank, one.row.number))


def best(trials: Sequence[Trial]) -> list[Trial]:
    """The first of one metric's, the front of several."""
    front = [trial for trial in trials if trial.rank == 0]
    return front[:1] if front and len(front[0].values) == 1 else front


def iterations_done(trials: Sequence[Trial]) -> int:
    return sum(trial.job.progress["iteration"] for trial in trials if trial.job.progress)


def take(
    session: Session, search: SearchRow, *, tune_id: str, params: dict[str, Any], now: datetime
) -> FollowedTrial:
    """The trial with these parameters that the driver does not follow yet, or a new one.

    So a driver that begins again finds the trials of the one before it, and none runs twice.
    Conflict where the search has all its trials, InvalidInput where the parameters make no job.
    """
    follower = _follower(search, tune_id)
    known = list(session.scalars(select(TrialRow).where(TrialRow.search_id == search.id)))
    mine = f"{search.driver}/"
    trial = next((one for one in known if one.follower == follower), None) or next(
        (one for one in known if one.params == params and not one.follower.startswith(mine)), None
    )
    if trial is not None:
        trial.follower = follower
        return FollowedTrial(number=trial.number, job_id=trial.job_id)
    spec = searches.spec_of(search)
    if len(known) >= spec.trials:
        raise Conflict(f"search {search.id} has its {spec.trials} trials already")
    number = len(known) + 1
    written = _job_spec(search, spec, params, number)
    job = jobs.submit(session, written, user=search.user, now=now).job
    trial = TrialRow(
        search_id=search.id,
        number=number,
        job_id=job.id,
        params=params,
        follower=follower,
        is_paused=False,
    )
    session.add(trial)
    search.driver_failures = 0
    data = {"number": number, "job_id": job.id, "params": params}
    searches.append_event(session, search, SearchEventKind.TRIAL, data, now=now)
    return FollowedTrial(number=number, job_id=job.id)


def answer(session: Session, search: SearchRow, *, tune_id: str, after: int) -> TrialAnswer | None:
    """The first evaluation after so many iterations, or the trial's end; None: neither yet.

    The last evaluation is told once the job has ended: what follows it, nobody waits for.
    """
    trial = _followed(session, search, tune_id)
    job = jobs.find(session, trial.job_id)
    metric = searches.spec_of(search).metric
    marks = session.scalars(
        select(MetricRow.iteration)
        .where(MetricRow.job_id == job.id, MetricRow.series == _MARK, MetricRow.iteration > after)
        .order_by(MetricRow.iteration)
    )
    measured = ((mark, _values_at(session, job, metric, mark)) for mark in marks)
    # One that was not finite is passed over.
    whole = [(mark, values) for mark, values in measured if len(values) == len(metric)]
    is_last = job.state in FINAL_STATES and len(whole) <= 1
    if job.state is JobState.FAILED and is_last:
        return TrialAnswer(failure=f"job {job.id} has failed: {job.message}"[:2000])
    if is_last and not whole:
        whole = [(after, _values_at(session, job, metric, after))]
        if len(whole[0][1]) < len(metric):
            return TrialAnswer(failure=f"job {job.id} was {job.state} before it was measured")
    if not whole or (whole[0][0] >= job.iterations and not is_last):
        return None
    iteration, values = whole[0]
    return TrialAnswer(evaluation=Evaluation(iteration=iteration, values=values, is_last=is_last))


def stop(
    session: Session, search: SearchRow, *, tune_id: str, iteration: int, now: datetime
) -> bool:
    """Stops a trial for its scheduler, which has seen the evaluation at that iteration.

    False where its job has ended by itself.
    """
    trial = _followed(session, search, tune_id)
    spec = searches.spec_of(search)
    job = jobs.find(session, trial.job_id)
    values = _values_at(session, job, spec.metric, iteration)
    told = ", ".join(f"{metric} {value:g}" for metric, value in values.items())
    why = f"{spec.scheduler.name} stopped it: at iteration {iteration} it had {told or 'no value'}"
    return _stop(session, search, trial, why=why, now=now)


def judge(session: Session, search: SearchRow, *, now: datetime) -> None:
    """Ends a running search whose budget is used up."""
    if search.state is not SearchState.RUNNING:
        return
    spec = searches.spec_of(search)
    budget = spec.budget
    active = searches.active_seconds(search, now=now)
    if budget.wall_seconds is not None and active >= budget.wall_seconds:
        why = f"{budget.wall_seconds:g} s of wall time are over"
        conclude(session, search, SearchEnd.WALL_TIME, why=why, now=now)
        return
    if budget.iterations is None and budget.target_error is None:
        return
    trials = ranked(session, search)
    done = iterations_done(trials)
    if budget.iterations is not None and done >= budget.iterations:
        why = f"the trials have done {done} iterations of {budget.iterations}"
        conclude(session, search, SearchEnd.ITERATIONS, why=why, now=now)
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
        conclude(session, search, SearchEnd.TARGET, why=why, now=now, kept=kept)


def conclude(
    session: Session,
    search: SearchRow,
    end: SearchEnd,
    *,
    why: str,
    now: datetime,
    kept: str | None = None,
) -> None:
    """Ends the search; what runs of it is stopped early, but for the job `kept`."""
    for trial, job in searches.trials_of(session, search.id):
        if job.state not in FINAL_STATES and job.id != kept:
            _stop(session, search, trial, why=why, now=now)
    has_any = any(trial.rank is not None for trial in ranked(session, search))
    state = SearchState.SUCCEEDED if has_any else SearchState.FAILED
    if not has_any and end is SearchEnd.TRIALS:
        end = SearchEnd.NO_TRIAL
    if end is SearchEnd.DRIVER:
        state = SearchState.FAILED
    searches.move(session, search, state, end=end, message=why, now=now)


def _stop(session: Session, search: SearchRow, trial: TrialRow, *, why: str, now: datetime) -> bool:
    if not steering.stop_early(session, trial.job_id, why=why, now=now):
        return False
    trial.why = why
    data = {"number": trial.number, "job_id": trial.job_id, "stopped": why}
    searches.append_event(session, search, SearchEventKind.TRIAL, data, now=now)
    return True


def _job_spec(
    search: SearchRow, spec: SearchSpec, params: Mapping[str, Any], number: int
) -> JobSpec:
    """A trial's own: named after its search, and found by the tag of it."""
    trial = search_space.trial_spec(spec.job, params)
    return trial.model_copy(
        update={
            "name": f"{search.name} #{number}",
            "tags": (*trial.tags, f"search:{search.id}"),
        }
    )


def _follower(search: SearchRow, tune_id: str) -> str:
    return f"{search.driver}/{tune_id}"


def _followed(session: Session, search: SearchRow, tune_id: str) -> TrialRow:
    trial = session.scalar(
        select(TrialRow).where(
            TrialRow.search_id == search.id, TrialRow.follower == _follower(search, tune_id)
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
            found[one] = job.facts["parameters"] if job.facts is not None else None
        elif one is Metric.SECONDS:
            found[one] = seconds.get(job.id)
        else:
            found[one] = job.newest_metrics.get(one)
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
    seconds = _seconds(session, [job]) if Metric.SECONDS in others else {}
    return found | {one.value: value for one, value in _values(job, others, seconds).items()}


def _seconds(session: Session, found: Sequence[JobRow]) -> dict[str, float]:
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


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Nowhere worse, and somewhere better."""
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


@dataclass(frozen=True)
class Standing:
    """Where a search stands: its trials by rank, and how much of its budget is used."""

    trials: Sequence[Trial]
    iterations: int
    wall_seconds: float | None

    @property
    def best(self) -> list[Trial]:
        return best(self.trials)

    @property
    def counts(self) -> dict[JobState, int]:
        """Of the trials in each state that any is in."""
        return dict(Counter(trial.job.state for trial in self.trials))


def standing(session: Session, search: SearchRow, *, now: datetime | None) -> Standing:
    """`now` None: without what changes from second to second."""
    found = ranked(session, search)
    wall_seconds = None if now is None else searches.active_seconds(search, now=now)
    return Standing(trials=found, iterations=iterations_done(found), wall_seconds=wall_seconds)
