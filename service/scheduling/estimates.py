"""How long jobs take, from the measured times of earlier attempts. All durations are seconds.

The time of an iteration is an attempt's complete time, with evaluation and checkpoints, divided
by the iterations that it did.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import ceil
from typing import Any

from sqlalchemy import ColumnElement, Row, func, select
from sqlalchemy.orm import Session

from service.jobs import records, workload
from service.scheduling.policy import DurationEstimate, EstimateBasis
from service.specs.job_spec import JobSpec
from service.storage.tables import AttemptRow, JobRow
from service.storage.visibility import ALL_ROWS

# The newest attempts show how fast the cluster is now.
_MAX_SAMPLES = 50
# p90 / p50 of a remaining time that follows from a single measured rate; an assumption.
_SPREAD = 1.25
_ITERATION = func.coalesce(AttemptRow.progress_iteration, AttemptRow.iteration)
_MEMORY_SERIES = "machine/memory_bytes"  # of all workers


@dataclass(frozen=True)
class TimingProfile:
    """What the time of an iteration depends on.

    `timing_key`: equal for jobs that take equally long with as many workers. `macs_per_iteration`:
    multiply-adds; None where unknown. `gpus_per_worker`: None where the cluster decides.
    `max_seconds`: of the recipe; evaluations come on top of it.
    """

    timing_key: str
    macs_per_iteration: float | None
    num_workers: int
    cpus_per_worker: int
    gpus_per_worker: float | None
    max_seconds: float | None

    @classmethod
    def from_row(cls, row: JobRow | Row[tuple[Any, ...]], *, num_workers: int) -> "TimingProfile":
        return cls(
            timing_key=row.timing_key,
            macs_per_iteration=row.macs_per_iteration,
            num_workers=num_workers,
            cpus_per_worker=row.cpus_per_worker,
            gpus_per_worker=row.gpus_per_worker,
            max_seconds=row.max_seconds,
        )

    @classmethod
    def from_spec(cls, spec: JobSpec, *, num_workers: int) -> "TimingProfile":
        return cls(
            timing_key=workload.make_timing_key(spec),
            macs_per_iteration=workload.count_macs_per_iteration(spec),
            num_workers=num_workers,
            cpus_per_worker=spec.resources.cpus_per_worker,
            gpus_per_worker=spec.resources.gpus_per_worker,
            max_seconds=workload.max_seconds_of(spec),
        )


class Estimator:
    """Reads each measurement once; use it for one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._iterations: dict[TimingProfile, DurationEstimate | None] = {}
        self._startup: DurationEstimate | None = None

    def estimate_total(self, profile: TimingProfile, *, iterations: int) -> DurationEstimate | None:
        """From the claim to the end of the last iteration, or of `max_seconds`.

        None where nothing is measured and there is no such limit.
        """
        iteration, limit = self.estimate_iteration(profile), profile.max_seconds
        startup = self.estimate_startup()
        if iteration is None:
            if limit is None:
                return None
            seconds = DurationEstimate(p50=limit, p90=limit, basis=EstimateBasis.MAX_SECONDS)
        else:
            seconds = replace(
                iteration,
                p50=_limit(iterations * iteration.p50, limit),
                p90=_limit(iterations * iteration.p90, limit),
            )
        return replace(seconds, p50=startup.p50 + seconds.p50, p90=startup.p90 + seconds.p90)

    def estimate_iteration(self, profile: TimingProfile) -> DurationEstimate | None:
        """From jobs with the same timing key, or else from other networks by their multiply-adds.

        None where neither was measured.
        """
        if profile not in self._iterations:
            self._iterations[profile] = self._measure_iteration(profile)
        return self._iterations[profile]

    def estimate_resident_bytes(self, profile: TimingProfile) -> int | None:
        """Of each worker: the most that the newest jobs with the same timing key have reported."""
        rows = self._session.scalars(
            select(JobRow.latest_metrics)
            .join(AttemptRow, JobRow.id == AttemptRow.job_id)
            .where(
                AttemptRow.ended_at.is_not(None),
                AttemptRow.number == JobRow.attempts,
                AttemptRow.num_workers == profile.num_workers,
                AttemptRow.timing_key == profile.timing_key,
            )
            .order_by(AttemptRow.ended_at.desc())
            .limit(_MAX_SAMPLES)
            .execution_options(**ALL_ROWS)
        )
        found = [value for metrics in rows if (value := metrics.get(_MEMORY_SERIES)) is not None]
        return round(max(found) / profile.num_workers) if found else None

    def estimate_startup(self) -> DurationEstimate:
        """From the claim to the first report."""
        if self._startup is None:
            rows = self._session.execute(
                select(AttemptRow.created_at, AttemptRow.started_at)
                .where(AttemptRow.started_at.is_not(None), AttemptRow.ended_at.is_not(None))
                .order_by(AttemptRow.ended_at.desc())
                .limit(_MAX_SAMPLES)
            )
            seconds = [
                (started_at - created_at).total_seconds()
                for created_at, started_at in rows
                if started_at is not None
            ]
            nothing = DurationEstimate(p50=0.0, p90=0.0)
            self._startup = compute_percentiles(seconds) if seconds else nothing
        return self._startup

    def estimate_remaining(
        self, attempt: AttemptRow, job: JobRow, *, now: datetime
    ) -> DurationEstimate:
        """Until the attempt ends: by its own rate, else by that of others, else its time limit.

        At least zero, and at most the rest of the time limit.
        """
        limit = _compute_remaining_limit(attempt, job, now=now)
        expected = _extrapolate(attempt, job, now=now) or self._subtract_elapsed(
            attempt, job, now=now
        )
        if expected is None:
            return DurationEstimate(p50=limit, p90=limit, basis=EstimateBasis.TIME_LIMIT)
        return replace(
            expected,
            p50=min(limit, max(0.0, expected.p50)),
            p90=min(limit, max(0.0, expected.p90)),
        )

    def _subtract_elapsed(
        self, attempt: AttemptRow, job: JobRow, *, now: datetime
    ) -> DurationEstimate | None:
        iterations = job.iterations - attempt.first_iteration
        profile = TimingProfile.from_row(job, num_workers=attempt.num_workers)
        total = self.estimate_total(profile, iterations=iterations)
        if total is None:
            return None
        elapsed = (now - attempt.created_at).total_seconds()
        return replace(total, p50=total.p50 - elapsed, p90=total.p90 - elapsed)

    def _measure_iteration(self, profile: TimingProfile) -> DurationEstimate | None:
        same = self._read_samples(profile.num_workers, AttemptRow.timing_key == profile.timing_key)
        if same:
            found = compute_percentiles([sample.seconds for sample in same])
            return replace(found, basis=EstimateBasis.SAME)
        macs = profile.macs_per_iteration
        if macs is None:
            return None
        others = self._read_samples(
            profile.num_workers,
            AttemptRow.cpus_per_worker == profile.cpus_per_worker,
            JobRow.gpus_per_worker.is_not_distinct_from(profile.gpus_per_worker),
            JobRow.macs_per_iteration.is_not(None),
        )
        scaled = [sample.seconds * macs / sample.macs for sample in others if sample.macs]
        if not scaled:
            return None
        return replace(compute_percentiles(scaled), basis=EstimateBasis.OTHER_NETWORKS)

    def _read_samples(self, num_workers: int, *conditions: ColumnElement[bool]) -> list["_Sample"]:
        rows = self._session.execute(
            select(
                AttemptRow.started_at,
                AttemptRow.last_report_at,
                _ITERATION,
                AttemptRow.first_iteration,
                JobRow.macs_per_iteration,
            )
            .join(JobRow, JobRow.id == AttemptRow.job_id)
            .where(
                AttemptRow.ended_at.is_not(None),
                AttemptRow.started_at.is_not(None),
                AttemptRow.last_report_at.is_not(None),
                AttemptRow.first_iteration < _ITERATION,
                AttemptRow.num_workers == num_workers,
                *conditions,
            )
            .order_by(AttemptRow.ended_at.desc())
            .limit(_MAX_SAMPLES)
            .execution_options(**ALL_ROWS)
        )
        return [
            _Sample((reported_at - started_at).total_seconds() / (iteration - first), macs)
            for started_at, reported_at, iteration, first, macs in rows
            if started_at is not None and reported_at is not None and iteration is not None
        ]


@dataclass(frozen=True)
class _Sample:
    """One attempt: seconds and multiply-adds per iteration."""

    seconds: float
    macs: float | None


def compute_percentiles(samples: Sequence[float]) -> DurationEstimate:
    """Median and ninth decile of at least one sample; each is itself a sample."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    return DurationEstimate(
        p50=ordered[ceil(0.5 * last)], p90=ordered[ceil(0.9 * last)], samples=len(ordered)
    )


def _compute_remaining_limit(attempt: AttemptRow, job: JobRow, *, now: datetime) -> float:
    limit = records.time_limit_of(job).total_seconds() - job.trained_seconds
    since = attempt.last_report_at
    elapsed = (now - since).total_seconds() if since is not None else 0.0
    return max(0.0, limit - elapsed)


def _extrapolate(attempt: AttemptRow, job: JobRow, *, now: datetime) -> DurationEstimate | None:
    """By the rate of the attempt itself; None before it has done an iteration."""
    reported_at = attempt.last_report_at
    iteration = attempt.progress_iteration or attempt.iteration
    if attempt.started_at is None or reported_at is None or iteration is None:
        return None
    done = iteration - attempt.first_iteration
    # The first report says nothing about the speed.
    if done <= 0 or reported_at <= attempt.started_at:
        return None
    rate = (reported_at - attempt.started_at).total_seconds() / done
    seconds = (job.iterations - iteration) * rate
    left = None if job.max_seconds is None else job.max_seconds - job.trained_seconds
    elapsed = (now - reported_at).total_seconds()
    return DurationEstimate(
        p50=_limit(seconds, left) - elapsed,
        p90=_limit(seconds * _SPREAD, left) - elapsed,
        basis=EstimateBasis.PROGRESS,
    )


def _limit(seconds: float, limit: float | None) -> float:
    return seconds if limit is None else min(seconds, limit)
