"""The ranking of a search's trials by its metrics."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from statistics import fmean, stdev

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.jobs import records as job_records
from service.searches import lifecycle, records
from service.specs.search_spec import Metric
from service.states import JobState, Reason
from service.storage.tables import AttemptRow, JobRow, MetricRow, SearchRow, TrialRow

# What several jobs of a trial amount to: the first of these states that one of them has.
_PRECEDENCE = (
    JobState.RUNNING,
    JobState.STARTING,
    JobState.QUEUED,
    JobState.BLOCKED,
    JobState.PAUSED,
    JobState.HELD,
    JobState.FAILED,
    JobState.CANCELLED,
    JobState.SUCCEEDED,
)


@dataclass(frozen=True)
class Trial:
    """`values`: the newest of each metric. `rank`: the number of trials that are better.

    `job` is that of the first seed. With repeats `values` are means over the jobs, which all have a
    value, and `stds` are their standard deviations. With several metrics a trial is better if it is
    no worse in all and better in one, so rank 0 is the Pareto front. None where a metric has no
    value, where a job has failed, or, with repeats, where one was cancelled.
    """

    row: TrialRow
    job: JobRow
    values: Mapping[Metric, float]
    rank: int | None
    repeats: Sequence[tuple[TrialRow, JobRow]] = ()
    stds: Mapping[Metric, float] = field(default_factory=dict)

    @property
    def jobs(self) -> list[JobRow]:
        """By their seeds."""
        return [self.job, *(job for _, job in self.repeats)]

    @property
    def state(self) -> JobState:
        """Of the job that is furthest from success: a trial has succeeded when all have."""
        return self._leading_job.state

    @property
    def reason(self) -> Reason | None:
        return self._leading_job.reason

    @property
    def _leading_job(self) -> JobRow:
        return min(self.jobs, key=lambda job: _PRECEDENCE.index(job.state))

    @property
    def stop_reason(self) -> str | None:
        """Why the search stopped it early; None where it ended before it could be stopped."""
        pairs = [(self.row, self.job), *self.repeats]
        stopped = (row.stop_reason for row, job in pairs if job.reason is Reason.EARLY_STOPPED)
        return next(stopped, None)

    @property
    def iteration(self) -> int:
        """That all of its jobs have reached."""
        return min(map(_count_iterations, self.jobs))


@dataclass(frozen=True)
class SearchProgress:
    """The trials of a search by rank, and the budget used; `wall_seconds` None: not computed."""

    trials: Sequence[Trial]
    iterations: int
    wall_seconds: float | None

    @property
    def best(self) -> list[Trial]:
        return pick_best(self.trials)

    @property
    def counts(self) -> dict[JobState, int]:
        """The number of trials in each state that occurs."""
        return dict(Counter(trial.state for trial in self.trials))


def read_progress(session: Session, search: SearchRow, *, now: datetime | None) -> SearchProgress:
    """`now` None: without `wall_seconds`, so that equal progress compares equal."""
    trials = rank_trials(session, search)
    wall_seconds = None if now is None else lifecycle.count_active_seconds(search, now=now)
    return SearchProgress(
        trials=trials, iterations=sum_iterations(trials), wall_seconds=wall_seconds
    )


def rank_trials(session: Session, search: SearchRow) -> list[Trial]:
    """The best first, by number where ranks are equal; trials without a rank last."""
    metrics = records.spec_of(search).metric
    pairs = records.list_trials(session, search.id)
    values = read_newest_values(session, [job for _, job in pairs], metrics)
    grouped = [list(group) for _, group in groupby(pairs, key=lambda pair: pair[0].number)]
    trials = [_make_trial(group, values, metrics) for group in grouped]
    points = {
        trial.row.number: tuple(trial.values[metric] for metric in metrics)
        for trial in trials
        if len(trial.values) == len(metrics) and not _has_lost_job(trial)
    }
    ranks = dict(zip(points, compute_ranks(list(points.values())), strict=True))
    ranked = [replace(trial, rank=ranks.get(trial.row.number)) for trial in trials]
    return sorted(ranked, key=lambda trial: (trial.rank is None, trial.rank, trial.row.number))


def read_newest_values(
    session: Session, jobs: Sequence[JobRow], metrics: Sequence[Metric]
) -> dict[str, dict[Metric, float]]:
    """By job id, without values that are missing or not finite."""
    seconds = _read_training_seconds(session, jobs) if Metric.SECONDS in metrics else {}
    return {job.id: _select_newest_values(job, metrics, seconds) for job in jobs}


def compute_means(
    values: Sequence[Mapping[Metric, float]], metrics: Sequence[Metric]
) -> dict[Metric, float]:
    """Over jobs; without the metrics of which a job has no value."""
    columns = {metric: [found.get(metric) for found in values] for metric in metrics}
    return {
        metric: fmean(value for value in column if value is not None)
        for metric, column in columns.items()
        if None not in column
    }


def _make_trial(
    pairs: Sequence[tuple[TrialRow, JobRow]],
    values: Mapping[str, Mapping[Metric, float]],
    metrics: Sequence[Metric],
) -> Trial:
    """Without its rank."""
    (row, job), *repeats = pairs
    found = [values[job.id] for _, job in pairs]
    means = compute_means(found, metrics)
    stds = (
        {metric: stdev([value[metric] for value in found]) for metric in means} if repeats else {}
    )
    return Trial(row=row, job=job, values=means, rank=None, repeats=repeats, stds=stds)


def _has_lost_job(trial: Trial) -> bool:
    """A failed job leaves no network that has its values. A mean needs complete trainings."""
    states = {job.state for job in trial.jobs}
    return JobState.FAILED in states or bool(trial.repeats and JobState.CANCELLED in states)


def compute_ranks(points: Sequence[tuple[float, ...]]) -> list[int]:
    """For each point the number of points that dominate it: nowhere worse and somewhere better.

    Smaller is better. All points have the same number of values.
    """
    if not points:
        return []
    # For each point a set of points, those that are nowhere worse: bit i is set for point i. An
    # intersection of two such sets of 10,000 points takes less than a microsecond.
    no_worse = [-1] * len(points)
    for values in zip(*points, strict=True):
        ascending = sorted(range(len(points)), key=values.__getitem__)
        found = 0
        for _, equal in groupby(ascending, key=values.__getitem__):
            indexes = list(equal)
            found |= sum(1 << index for index in indexes)
            for index in indexes:
                no_worse[index] &= found
    # A point and its equals do not dominate it.
    equals = Counter(points)
    return [
        found.bit_count() - equals[point] for found, point in zip(no_worse, points, strict=True)
    ]


def pick_best(trials: Sequence[Trial]) -> list[Trial]:
    """The best trial by one metric, or the Pareto front of several; empty without a ranked one."""
    front = [trial for trial in trials if trial.rank == 0]
    return front[:1] if front and len(front[0].values) == 1 else front


def sum_iterations(trials: Sequence[Trial]) -> int:
    return sum(_count_iterations(job) for trial in trials for job in trial.jobs)


def read_values_at(
    session: Session, job: JobRow, metrics: Sequence[Metric], iteration: int
) -> dict[Metric, float]:
    """The values at that iteration, without those that are missing or were not finite."""
    rows = session.execute(
        select(MetricRow.series, MetricRow.value).where(
            MetricRow.job_id == job.id,
            MetricRow.iteration == iteration,
            MetricRow.series.in_([metric.value for metric in metrics]),
        )
    )
    found = {Metric(series): value for series, value in rows if value is not None}
    others = [metric for metric in metrics if not metric.is_series]
    seconds = _read_training_seconds(session, [job]) if Metric.SECONDS in others else {}
    return found | _select_newest_values(job, others, seconds)


def _count_iterations(job: JobRow) -> int:
    progress = job_records.progress_of(job)
    return 0 if progress is None else progress.iteration


def _select_newest_values(
    job: JobRow, metrics: Sequence[Metric], seconds: Mapping[str, float]
) -> dict[Metric, float]:
    found: dict[Metric, float | None] = {}
    for metric in metrics:
        if metric is Metric.PARAMETERS:
            environment = job_records.environment_of(job)
            found[metric] = None if environment is None else environment.parameters
        elif metric is Metric.SECONDS:
            found[metric] = seconds.get(job.id)
        else:
            found[metric] = job.latest_metrics.get(metric)
    return {metric: float(value) for metric, value in found.items() if value is not None}


def _read_training_seconds(session: Session, jobs: Sequence[JobRow]) -> dict[str, float]:
    """By job id: from the job's result, before its end from the times of its attempts."""
    results = {job.id: job_records.result_of(job) for job in jobs}
    final = {job_id: result.training_seconds for job_id, result in results.items() if result}
    rows = session.execute(
        select(
            AttemptRow.job_id,
            AttemptRow.started_at,
            func.coalesce(AttemptRow.ended_at, AttemptRow.last_report_at),
        ).where(
            AttemptRow.job_id.in_([job.id for job in jobs if job.id not in final]),
            AttemptRow.started_at.is_not(None),
        )
    )
    running: dict[str, float] = {}
    for job_id, started_at, ended_at in rows:
        assert started_at is not None, "selected so"
        running[job_id] = running.get(job_id, 0.0) + (ended_at - started_at).total_seconds()
    return running | final
