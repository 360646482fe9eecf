"""Trials as a search's driver sees them: proposed, followed by their evaluations, stopped."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.errors import Conflict, NotFound
from service.jobs import commands as job_commands
from service.jobs import records as job_records
from service.jobs import submission as job_submission
from service.searches import ranking, records
from service.specs import search_space
from service.specs.job_spec import JobSpec
from service.specs.protocol import AssignedTrial, NextEvaluationResponse, TrialEvaluation
from service.specs.search_spec import Metric, SearchSpec
from service.states import FINAL_STATES, JobState
from service.storage import events
from service.storage.events import EventKind
from service.storage.tables import JobRow, MetricRow, SearchRow, TrialRow
from service.text import count_of

# The series that every evaluation reports.
_EVALUATION_SERIES = Metric.TEST_ERROR


def assign_trial(
    session: Session,
    search: SearchRow,
    *,
    tune_id: str,
    params: dict[str, Any],
    data_dir: Path,
    now: datetime,
) -> AssignedTrial:
    """A trial with these parameters that the driver does not follow yet, else a new one.

    So a new driver finds the trials of the one before it, and no trial runs twice. Conflict where
    the search has all its trials, InvalidInput where the parameters make no valid job.
    """
    driver_trial_id = _make_driver_trial_id(search, tune_id)
    known = _list_assigned(session, search, tune_id) or _list_adoptable(session, search, params)
    if known:
        for row in known:
            row.driver_trial_id = driver_trial_id
        return AssignedTrial(number=known[0].number, job_id=known[0].job_id)
    spec = records.spec_of(search)
    # Trials are numbered without a gap.
    last = session.scalar(select(func.max(TrialRow.number)).where(TrialRow.search_id == search.id))
    number = (last or 0) + 1
    if number > spec.trials:
        raise Conflict(f"search {search.id} already has its {count_of(spec.trials, 'trial')}")
    job_ids = []
    for repeat in range(spec.repeats):
        job = job_submission.create_job(
            session,
            _make_job_spec(search, spec, params, number, repeat),
            user=search.user,
            data_dir=data_dir,
            # Ids sort by time: a microsecond between jobs keeps the order of the repeats.
            now=now + timedelta(microseconds=repeat),
        )
        job_ids.append(job.id)
        session.add(
            TrialRow(
                search_id=search.id,
                number=number,
                repeat=repeat,
                job_id=job.id,
                params=params,
                driver_trial_id=driver_trial_id,
                is_paused=False,
            )
        )
    search.driver_failures = 0
    data = {"number": number, "job_id": job_ids[0], "params": params}
    events.append_event(session, search, EventKind.TRIAL, data, now=now)
    return AssignedTrial(number=number, job_id=job_ids[0])


def list_job_ids(session: Session, search: SearchRow, *, tune_id: str) -> list[str]:
    """The jobs of the trial. NotFound where the driver has no such trial."""
    return [row.job_id for row in _require_assigned(session, search, tune_id)]


def find_next_evaluation(
    session: Session, search: SearchRow, *, tune_id: str, after: int
) -> NextEvaluationResponse | None:
    """The first evaluation after iteration `after`, or the trial's end; None: neither yet.

    The last evaluation is returned once the job has ended, so that it is known to be the last. A
    trial with several jobs has one evaluation, their mean, when all have ended.
    """
    rows = _require_assigned(session, search, tune_id)
    job, *others = (job_records.find_job(session, row.job_id) for row in rows)
    metrics = records.spec_of(search).metric
    if others:
        return _find_mean_evaluation(session, [job, *others], metrics)
    # A second one shows that the first is not the last.
    evaluations = list(islice(_list_evaluations(session, job, metrics, after), 2))
    is_last = job.state in FINAL_STATES and len(evaluations) <= 1
    if is_last and job.state is JobState.FAILED:
        return NextEvaluationResponse(failure=f"job {job.id} has failed: {job.message}"[:2000])
    if is_last and not evaluations:
        values = ranking.read_values_at(session, job, metrics, after)
        if len(values) < len(metrics):
            failure = f"job {job.id} {job.state.past_phrase} before its first evaluation"
            return NextEvaluationResponse(failure=failure)
        evaluations = [(after, values)]
    if not evaluations or (evaluations[0][0] >= job.iterations and not is_last):
        return None
    iteration, values = evaluations[0]
    return NextEvaluationResponse(
        evaluation=TrialEvaluation(
            iteration=iteration,
            values={metric.value: value for metric, value in values.items()},
            is_last=is_last,
        )
    )


def stop_trial(
    session: Session, search: SearchRow, *, tune_id: str, iteration: int, now: datetime
) -> bool:
    """Stops a trial for its scheduler, by its evaluation at that iteration.

    False where its job has ended or is stopping for good.
    """
    trial, *_ = _require_assigned(session, search, tune_id)
    spec = records.spec_of(search)
    job = job_records.find_job(session, trial.job_id)
    values = ranking.read_values_at(session, job, spec.metric, iteration)
    listed = ", ".join(f"{metric} {value:g}" for metric, value in values.items())
    message = f"stopped by {spec.scheduler.name} at iteration {iteration}: {listed or 'no value'}"
    return stop(session, search, trial, message=message, now=now)


def stop(
    session: Session, search: SearchRow, trial: TrialRow, *, message: str, now: datetime
) -> bool:
    """Stops a trial early. False where its job has ended or is stopping for good."""
    if not job_commands.stop_early(session, trial.job_id, message=message, now=now):
        return False
    trial.stop_reason = message
    data = {"number": trial.number, "job_id": trial.job_id, "stop_reason": message}
    events.append_event(session, search, EventKind.TRIAL, data, now=now)
    return True


def _find_mean_evaluation(
    session: Session, jobs: Sequence[JobRow], metrics: Sequence[Metric]
) -> NextEvaluationResponse | None:
    """Once all jobs have ended; without a value where one of them has not succeeded."""
    if any(job.state not in FINAL_STATES for job in jobs):
        return None
    for job in jobs:
        if job.state is not JobState.SUCCEEDED:
            message = f"job {job.id} {job.state.past_phrase}: {job.message}"
            return NextEvaluationResponse(failure=message[:2000])
    values = ranking.read_newest_values(session, jobs, metrics)
    means = ranking.compute_means(list(values.values()), metrics)
    if len(means) < len(metrics):
        return NextEvaluationResponse(failure=f"a job has no value of {', '.join(metrics)}")
    return NextEvaluationResponse(
        evaluation=TrialEvaluation(
            iteration=jobs[0].iterations,
            values={metric.value: value for metric, value in means.items()},
            is_last=True,
        )
    )


def _list_assigned(session: Session, search: SearchRow, tune_id: str) -> Sequence[TrialRow]:
    """By repeat; empty where the driver has no such trial."""
    statement = (
        select(TrialRow)
        .where(
            TrialRow.search_id == search.id,
            TrialRow.driver_trial_id == _make_driver_trial_id(search, tune_id),
        )
        .order_by(TrialRow.repeat)
    )
    return session.scalars(statement).all()


def _list_adoptable(
    session: Session, search: SearchRow, params: dict[str, Any]
) -> Sequence[TrialRow]:
    """Of the first trial with these parameters that only an earlier driver has followed."""
    own_prefix = _make_driver_trial_id(search, "")
    earlier = session.scalars(
        select(TrialRow)
        .where(
            TrialRow.search_id == search.id,
            ~TrialRow.driver_trial_id.startswith(own_prefix, autoescape=True),
        )
        .order_by(TrialRow.number, TrialRow.repeat)
    )
    by_number = groupby(earlier, key=lambda row: row.number)
    trials = (list(rows) for _, rows in by_number)
    return next((rows for rows in trials if rows[0].params == params), [])


def _require_assigned(session: Session, search: SearchRow, tune_id: str) -> Sequence[TrialRow]:
    rows = _list_assigned(session, search, tune_id)
    if not rows:
        raise NotFound(f"the driver of search {search.id} has no trial {tune_id!r}")
    return rows


def _make_driver_trial_id(search: SearchRow, tune_id: str) -> str:
    return f"{search.driver_number}/{tune_id}"


def _make_job_spec(
    search: SearchRow, spec: SearchSpec, params: Mapping[str, Any], number: int, repeat: int
) -> JobSpec:
    """Named after the search, and tagged with its id."""
    trial = search_space.make_trial_spec(spec.job, params)
    name = f"{search.name} #{number}" + (f".{repeat + 1}" if spec.repeats > 1 else "")
    tags = (*trial.tags, f"search:{search.id}")
    return trial.model_copy(update={"name": name, "tags": tags, "seed": trial.seed + repeat})


def _list_evaluations(
    session: Session, job: JobRow, metrics: Sequence[Metric], after: int
) -> Iterator[tuple[int, dict[Metric, float]]]:
    """Iteration and values of evaluations; one with a value that is not finite is skipped."""
    iterations = session.scalars(
        select(MetricRow.iteration)
        .where(
            MetricRow.job_id == job.id,
            MetricRow.series == _EVALUATION_SERIES,
            MetricRow.iteration > after,
        )
        .order_by(MetricRow.iteration)
    ).all()
    for iteration in iterations:
        values = ranking.read_values_at(session, job, metrics, iteration)
        if len(values) == len(metrics):
            yield iteration, values
