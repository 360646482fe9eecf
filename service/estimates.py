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

from service.schedule import Span
from service.tables import AttemptRow, JobRow

# The newest attempts tell how fast the cluster is now.
_SAMPLES = 50
# Of one measured rate nothing says how it spreads.
_SPREAD = 1.25


class Estimates:
    """Reads each measurement once; lives as long as one transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._by_shape: dict[tuple[Any, ...], Span | None] = {}
        self._startup: Span | None = None

    def whole(
        self,
        *,
        shape: str,
        work: float | None,
        resources: tuple[int, int, float | None],
        iterations: int,
    ) -> Span | None:
        """From the claim to the end of so many iterations; None where nothing is measured.

        `resources`: workers, CPUs and GPUs of each. Where no job of the shape has run, networks
        of other sizes stand in for it by their multiply-adds (`work`).
        """
        step = self.step(shape=shape, work=work, resources=resources)
        if step is None:
            return None
        startup = self.startup()
        return Span(
            p50=startup.p50 + iterations * step.p50, p90=startup.p90 + iterations * step.p90
        )

    def step(
        self, *, shape: str, work: float | None, resources: tuple[int, int, float | None]
    ) -> Span | None:
        """Of one iteration."""
        key = (shape, work, resources)
        if key not in self._by_shape:
            self._by_shape[key] = self._measured_step(shape, work, resources)
        return self._by_shape[key]

    def startup(self) -> Span:
        """From the claim to the first report."""
        if self._startup is None:
            rows = self._session.execute(
                select(AttemptRow.created_at, AttemptRow.started_at)
                .where(AttemptRow.started_at.is_not(None), AttemptRow.ended_at.is_not(None))
                .order_by(AttemptRow.ended_at.desc())
                .limit(_SAMPLES)
            )
            took = [(began - made).total_seconds() for made, began in rows if began is not None]
            self._startup = span_of(took) if took else Span(p50=0.0, p90=0.0)
        return self._startup

    def left(self, attempt: AttemptRow, job: JobRow, *, now: datetime) -> Span:
        """Until the attempt ends: by its own pace, by that of others, at its time limit at last."""
        limit = self._until_time_limit(attempt, job, now=now)
        expected = self._by_own_pace(attempt, job, now=now)
        if expected is None:
            whole = self.whole(
                shape=job.shape,
                work=job.work,
                resources=(job.num_workers, job.cpus_per_worker, job.gpus_per_worker),
                iterations=job.iterations - attempt.first_iteration,
            )
            if whole is None:
                return Span(p50=limit, p90=limit)
            passed = (now - attempt.created_at).total_seconds()
            expected = Span(p50=whole.p50 - passed, p90=whole.p90 - passed)
        return Span(p50=min(limit, max(0.0, expected.p50)), p90=min(limit, max(0.0, expected.p90)))

    def _by_own_pace(self, attempt: AttemptRow, job: JobRow, *, now: datetime) -> Span | None:
        told_at = attempt.last_report_at
        if attempt.started_at is None or told_at is None or attempt.iteration is None:
            return None
        done = attempt.iteration - attempt.first_iteration
        if done <= 0:
            return None
        step = (told_at - attempt.started_at).total_seconds() / done
        left = (job.iterations - attempt.iteration) * step
        since = (now - told_at).total_seconds()
        return Span(p50=left - since, p90=left * _SPREAD - since)

    def _until_time_limit(self, attempt: AttemptRow, job: JobRow, *, now: datetime) -> float:
        limit = timedelta(minutes=job.spec["time_limit_minutes"])
        return max(0.0, ((attempt.started_at or now) + limit - now).total_seconds())

    def _measured_step(
        self, shape: str, work: float | None, resources: tuple[int, int, float | None]
    ) -> Span | None:
        alike = self._steps(JobRow.shape == shape)
        if alike:
            return span_of([seconds for seconds, _ in alike])
        if work is None:
            return None
        num_workers, cpus, gpus = resources
        others = self._steps(
            JobRow.num_workers == num_workers,
            JobRow.cpus_per_worker == cpus,
            JobRow.gpus_per_worker.is_not_distinct_from(gpus),
            JobRow.work.is_not(None),
        )
        scaled = [seconds * work / its_work for seconds, its_work in others if its_work]
        return span_of(scaled) if scaled else None

    def _steps(self, *conditions: ColumnElement[bool]) -> list[tuple[float, float | None]]:
        rows = self._session.execute(
            select(
                AttemptRow.started_at,
                AttemptRow.last_report_at,
                AttemptRow.iteration,
                AttemptRow.first_iteration,
                JobRow.work,
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


def span_of(samples: Sequence[float]) -> Span:
    """Median and ninth decile of at least one sample, each a sample itself."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    return Span(p50=ordered[ceil(0.5 * last)], p90=ordered[ceil(0.9 * last)])
