"""How long jobs take, from measured step times; all durations are seconds.

An iteration's time is an attempt's whole time, evaluation and checkpoints included, over the
iterations that it did.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from math import ceil
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from service.scheduling.policy import DurationEstimate
from service.storage.tables import AttemptRow, JobRow

# The newest attempts tell how fast the cluster is now.
_SAMPLES = 50
# Of one measured rate nothing says how it spreads.
_SPREAD = 1.25


class Estimates:
    """Reads each measurement once; lives as long as one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._by_shape: dict[tuple[Any, ...], DurationEstimate | None] = {}
        self._startup: DurationEstimate | None = None

    def whole(
        self,
        *,
        timing_key: str,
        macs_per_iteration: float | None,
        resources: tuple[int, int, float | None],
        iterations: int,
    ) -> DurationEstimate | None:
        """From the claim to the end of so many iterations; None where nothing is measured.

        `resources`: workers, CPUs and GPUs of each. Where no job of the shape has run, networks
        of other sizes stand in for it by their multiply-adds (`macs_per_iteration`).
        """
        step = self.step(
            timing_key=timing_key, macs_per_iteration=macs_per_iteration, resources=resources
        )
        if step is None:
            return None
        startup = self.startup()
        return DurationEstimate(
            p50=startup.p50 + iterations * step.p50, p90=startup.p90 + iterations * step.p90
        )

    def step(
        self,
        *,
        timing_key: str,
        macs_per_iteration: float | None,
        resources: tuple[int, int, float | None],
    ) -> DurationEstimate | None:
        """Of one iteration."""
        key = (timing_key, macs_per_iteration, resources)
        if key not in self._by_shape:
            self._by_shape[key] = self._measured_step(timing_key, macs_per_iteration, resources)
        return self._by_shape[key]

    def startup(self) -> DurationEstimate:
        """From the claim to the first report."""
        if self._startup is None:
            rows = self._session.execute(
                select(AttemptRow.created_at, AttemptRow.started_at)
                .where(AttemptRow.started_at.is_not(None), AttemptRow.ended_at.is_not(None))
                .order_by(AttemptRow.ended_at.desc())
                .limit(_SAMPLES)
            )
            took = [(began - made).total_seconds() for made, began in rows if began is not None]
            self._startup = percentiles(took) if took else DurationEstimate(p50=0.0, p90=0.0)
        return self._startup

    def left(self, attempt: AttemptRow, job: JobRow, *, now: datetime) -> DurationEstimate:
        """Until the attempt ends: by its own pace, by that of others, at its time limit at last."""
        limit = self._until_time_limit(attempt, job, now=now)
        expected = self._by_own_pace(attempt, job, now=now)
        if expected is None:
            whole = self.whole(
                timing_key=job.timing_key,
                macs_per_iteration=job.macs_per_iteration,
                resources=(job.num_workers, job.cpus_per_worker, job.gpus_per_worker),
                iterations=job.iterations - attempt.first_iteration,
            )
            if whole is None:
                return DurationEstimate(p50=limit, p90=limit)
            passed = (now - attempt.created_at).total_seconds()
            expected = DurationEstimate(p50=whole.p50 - passed, p90=whole.p90 - passed)
        return DurationEstimate(
            p50=min(limit, max(0.0, expected.p50)), p90=min(limit, max(0.0, expected.p90))
        )

    def _by_own_pace(
        self, attempt: AttemptRow, job: JobRow, *, now: datetime
    ) -> DurationEstimate | None:
        told_at = attempt.last_report_at
        if attempt.started_at is None or told_at is None or attempt.iteration is None:
            return None
        done = attempt.iteration - attempt.first_iteration
        if done <= 0:
            return None
        step = (told_at - attempt.started_at).total_seconds() / done
        left = (job.iterations - attempt.iteration) * step
        since = (now - told_at).total_seconds()
        return DurationEstimate(p50=left - since, p90=left * _SPREAD - since)

    def _until_time_limit(self, attempt: AttemptRow, job: JobRow, *, now: datetime) -> float:
        limit = timedelta(minutes=job.spec["time_limit_minutes"])
        return max(0.0, ((attempt.started_at or now) + limit - now).total_seconds())

    def _measured_step(
        self,
        timing_key: str,
        macs_per_iteration: float | None,
        resources: tuple[int, int, float | None],
    ) -> DurationEstimate | None:
        alike = self._steps(JobRow.timing_key == timing_key)
        if alike:
            return percentiles([seconds for seconds, _ in alike])
        if macs_per_iteration is None:
            return None
        num_workers, cpus, gpus = resources
        others = self._steps(
            JobRow.num_workers == num_workers,
            JobRow.cpus_per_worker == cpus,
            JobRow.gpus_per_worker.is_not_distinct_from(gpus),
            JobRow.macs_per_iteration.is_not(None),
        )
        scaled = [
            seconds * macs_per_iteration / its_work for seconds, its_work in others if its_work
        ]
        return percentiles(scaled) if scaled else None

    def _steps(self, *conditions: ColumnElement[bool]) -> list[tuple[float, float | None]]:
        rows = self._session.execute(
            select(
                AttemptRow.started_at,
                AttemptRow.last_report_at,
                AttemptRow.iteration,
                AttemptRow.first_iteration,
                JobRow.macs_per_iteration,
            )
            .join(JobRow, JobRow.id == AttemptRow.job_id)
            .where(
                AttemptRow.ended_at.is_not(None),
                AttemptRow.started_at.is_not(None),
                AttemptRow.last_report_at.is_not(None),
                AttemptRow.iteration > AttemptRow.first_iteration,
                *conditions,
            )
            .order_by(AttemptRow.ended_at.desc())
            .limit(_SAMPLES)
        )
        return [
            ((told - began).total_seconds() / (iteration - first), work)
            for began, told, iteration, first, work in rows
            if began is not None and told is not None and iteration is not None
        ]


def percentiles(samples: Sequence[float]) -> DurationEstimate:
    """Median and ninth decile of at least one sample, each a sample itself."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    return DurationEstimate(p50=ordered[ceil(0.5 * last)], p90=ordered[ceil(0.9 * last)])
