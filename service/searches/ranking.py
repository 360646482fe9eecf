"""The ranking of a search's trials by its metrics."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.jobs import records as job_records
from service.searches import lifecycle, records
from service.specs.search_spec import Metric
from service.states import JobState, Reason
from service.storage.tables import AttemptRow, JobRow, MetricRow, SearchRow, TrialRow


@dataclass(frozen=True)
class Trial:
    """`values`: the newest of each metric. `rank`: the number of trials that are better.

    With several metrics a trial is better if it is no worse in all and better in one, so rank 0 is
    the Pareto front. None where a metric has no value, or where the job has failed.
    """

    row: TrialRow
    job: JobRow
    values: Mapping[Metric, float]
    rank: int | None

    @property
    def stop_reason(self) -> str | None:
        """Why the search stopped it early; None where it ended before it could be stopped."""
        return self.row.stop_reason if self.job.reason is Reason.EARLY_STOPPED else None

    @property
    def iteration(self) -> int:
        progress = job_records.progress_of(self.job)
        return 0 if progress is None else progress.iteration


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
        return dict(Counter(trial.job.state for trial in self.trials))


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
    jobs = [job for _, job in pairs]
    seconds = _read_training_seconds(session, jobs) if Metric.SECONDS in metrics else {}
    values = {job.id: _select_newest_values(job, metrics, seconds) for job in jobs}
    points = {
        job.id: tuple(values[job.id][metric] for metric in metrics)
        for job in jobs
        # A failed job leaves no network that has these values.
        if len(values[job.id]) == len(metrics) and job.state is not JobState.FAILED
    }
    ranks = dict(zip(points, compute_ranks(list(points.values())), strict=True))
    trials = [
        Trial(row=row, job=job, values=values[job.id], rank=ranks.get(job.id)) for row, job in pairs
    ]
    return sorted(trials, key=lambda trial: (trial.rank is None, trial.rank, trial.row.number))


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
    return sum(trial.iteration for trial in trials)


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
