"""Whether a job's curve is normal: held beside completed jobs that differ only in their seed.

At each evaluation the envelope is the interval in which the error of one more such job is expected:
mean ± t * s * sqrt(1 + 1/n) over the n jobs, where s is their standard deviation, and t the
quantile of Student's t distribution with n - 1 degrees of freedom. A job is looked at once for each
of its L evaluations, so each look has the share FALSE_ALARM_RATE / L of the false alarms
(Bonferroni). L follows from the recipe, so that a running job may be looked at as often as one
likes. A job leaves its envelope where two evaluations in a row are outside, or the last one of the
training, or one that is not finite: at a high learning rate single errors are far off in normal
trainings, too.

At most FALSE_ALARM_RATE of normal jobs leave their envelope, and less than 2 % if errors are
normally distributed over seeds (the simulations are in decision 47).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.jobs import records
from service.states import JobState
from service.storage.tables import JobRow, MetricRow
from service.text import count_of

SERIES = "test/error"
FALSE_ALARM_RATE = 0.05
MIN_JOBS = 3
_UNIT = "points"
# Newest first. More of them do not change the interval visibly.
_MAX_JOBS = 50
# Where the number of test images is not known.
_ASSUMED_TEST_IMAGES = 10_000


class EnvelopeVerdict(StrEnum):
    WITHIN = "within"
    LEFT = "left"
    UNKNOWN = "unknown"  # too few jobs to compare with, or no evaluation


@dataclass(frozen=True)
class EnvelopePoint:
    """An evaluation: the expected interval, and the job's value; errors in percent.

    `value`: None where the job has not been evaluated, or its error was not finite.
    """

    iteration: int
    low: float
    mean: float
    high: float
    value: float | None


@dataclass(frozen=True)
class Departure:
    """The first evaluation with which it left the envelope, and how far outside, in points.

    `value` and `points`: None where the error was not finite.
    """

    iteration: int
    value: float | None
    points: float | None


@dataclass(frozen=True)
class Envelope:
    """`job_ids`: of the jobs that it is made of; `looks`: evaluations of the complete training."""

    verdict: EnvelopeVerdict
    message: str
    job_ids: list[str]
    looks: int
    departure: Departure | None
    points: list[EnvelopePoint]


def read_envelope(session: Session, job_id: str) -> Envelope:
    """Of a job in any state. NotFound."""
    job = records.find_job(session, job_id)
    others = _list_replicates(session, job)
    curves = _read_curves(session, [job.id, *(other.id for other in others)])
    own = curves.pop(job.id, {})
    used = [other.id for other in others if other.id in curves]
    environment = next(filter(None, map(records.environment_of, [job, *others])), None)
    images = _ASSUMED_TEST_IMAGES if environment is None else environment.test_images
    recipe = job.spec["recipe"]
    looks = math.ceil(recipe["iterations"] / recipe["evaluate_every"])
    return compare_curve(
        own, {name: curves[name] for name in used}, looks=looks, resolution=100 / images
    )


def compare_curve(
    own: Mapping[int, float | None],
    others: Mapping[str, Mapping[int, float | None]],
    *,
    looks: int,
    resolution: float,
) -> Envelope:
    """Curves are errors by iteration, those of `others` by job id.

    `resolution`: the error of one test image in percent, below which no deviation counts.
    """
    points = []
    for iteration in sorted({iteration for curve in others.values() for iteration in curve}):
        values = [curve.get(iteration) for curve in others.values()]
        finite = [value for value in values if value is not None]
        if len(finite) >= MIN_JOBS:
            mean, margin = _expect(finite, looks=looks, resolution=resolution)
            points.append(
                EnvelopePoint(
                    iteration,
                    low=max(0.0, mean - margin),
                    mean=mean,
                    high=min(100.0, mean + margin),
                    value=own.get(iteration),
                )
            )
    seen = [point for point in points if point.iteration in own]
    first = _find_departure(seen, is_complete=len(seen) == looks)
    departure = None
    if not seen:
        verdict = EnvelopeVerdict.UNKNOWN
    elif first is not None:
        verdict = EnvelopeVerdict.LEFT
        distance = None if first.value is None else abs(_distance(first))
        departure = Departure(first.iteration, first.value, distance)
    else:
        verdict = EnvelopeVerdict.WITHIN
    message = _describe(len(others), has_points=bool(points), seen=seen, first=first)
    return Envelope(verdict, message, list(others), looks, departure, points)


def _list_replicates(session: Session, job: JobRow) -> list[JobRow]:
    """The newest completed job of each other seed."""
    statement = (
        select(JobRow)
        .where(
            JobRow.replicate_key == job.replicate_key,
            JobRow.state == JobState.SUCCEEDED,
            JobRow.id != job.id,
        )
        .order_by(JobRow.id.desc())
        .limit(_MAX_JOBS)
    )
    by_seed: dict[int, JobRow] = {}
    for other in session.scalars(statement):
        if other.spec["seed"] != job.spec["seed"]:
            by_seed.setdefault(other.spec["seed"], other)
    return list(by_seed.values())


def _read_curves(session: Session, job_ids: Sequence[str]) -> dict[str, dict[int, float | None]]:
    """By job id and iteration; None where a value was not finite."""
    statement = select(MetricRow.job_id, MetricRow.iteration, MetricRow.value).where(
        MetricRow.job_id.in_(job_ids), MetricRow.series == SERIES
    )
    curves: dict[str, dict[int, float | None]] = {}
    for job_id, iteration, value in session.execute(statement):
        curves.setdefault(job_id, {})[iteration] = value
    return curves


def _expect(values: Sequence[float], *, looks: int, resolution: float) -> tuple[float, float]:
    """Mean, and half the width of the interval of one more value."""
    n, mean = len(values), statistics.fmean(values)
    # Equal values of few jobs do not mean that the next one is equal.
    std = max(statistics.stdev(values, mean), resolution)
    return mean, _t_quantile(n - 1, looks) * std * math.sqrt(1 + 1 / n)


@cache
def _t_quantile(degrees_of_freedom: int, looks: int) -> float:
    # A tenth of a second and 20 MB, for requests of this kind only.
    from scipy.special import stdtrit  # noqa: PLC0415

    return float(stdtrit(degrees_of_freedom, 1 - FALSE_ALARM_RATE / looks / 2))


def _distance(point: EnvelopePoint) -> float:
    """Points above (positive) or below the interval, 0 inside; infinite for a value that is not."""
    if point.value is None:
        return math.inf
    return max(0.0, point.value - point.high) + min(0.0, point.value - point.low)


def _find_departure(seen: Sequence[EnvelopePoint], *, is_complete: bool) -> EnvelopePoint | None:
    """`is_complete`: the last point is the last evaluation of the training."""
    is_outside = [_distance(point) != 0 for point in seen] + [is_complete]
    for index, point in enumerate(seen):
        # Behind the last evaluation of a training there is none that could differ.
        if is_outside[index] and (point.value is None or is_outside[index + 1]):
            return point
    return None


def _describe(
    jobs: int,
    *,
    has_points: bool,
    seen: Sequence[EnvelopePoint],
    first: EnvelopePoint | None,
) -> str:
    compared = f"{count_of(jobs, 'completed job')} with other seeds"
    if not has_points:
        return f"unknown: needs {MIN_JOBS} completed jobs that differ only in the seed; has {jobs}"
    if not seen:
        return f"unknown: has no test error yet to compare with {compared}"
    evaluations = count_of(len(seen), "evaluation")
    if first is None:
        return f"normal: within the range of {compared} in {evaluations}"
    outside = sum(_distance(point) != 0 for point in seen)
    again = "" if outside == 1 else f"; it is outside in {outside} of {evaluations}"
    start = f"leaves the range of {compared} at iteration {first.iteration:,}: "
    if first.value is None:
        return f"{start}its test error is not finite{again}"
    side, bound = ("above", first.high) if first.value > first.high else ("below", first.low)
    return (
        f"{start}its test error of {first.value:.2f} % is {abs(_distance(first)):.2f} {_UNIT} "
        f"{side} the expected {bound:.2f} %{again}"
    )
