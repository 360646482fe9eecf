"""What a curve is drawn against: iterations, epochs, training time, the time, or multiply-adds."""

from bisect import bisect_left
from enum import StrEnum

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from service.errors import FieldError, InvalidInput
from service.jobs import metric_buckets, records
from service.jobs.metric_buckets import Buckets
from service.storage.tables import JobRow, MetricRow

# Buckets of a job in which a time is looked up.
_LOOKUP_BUCKETS = 1000


class MetricAxis(StrEnum):
    """`seconds`: training time over all attempts; `time`: seconds since 1970."""

    ITERATION = "iteration"
    EPOCH = "epoch"
    SECONDS = "seconds"
    TIME = "time"
    MULTIPLY_ADDS = "multiply-adds"


def newest_iteration(session: Session, job: JobRow) -> int:
    """Of all points of the job; 0 without one."""
    # One query for each series, since each finds its answer at the end of the primary key.
    newest = [
        session.scalar(
            select(func.max(MetricRow.iteration)).where(
                MetricRow.job_id == job.id, MetricRow.series == series
            )
        )
        for series in job.latest_metrics
    ]
    return max((iteration for iteration in newest if iteration is not None), default=0)


def find_iteration(session: Session, job: JobRow, axis: MetricAxis, position: float) -> int:
    """The iteration at that position of the axis; a time is found to a thousandth of the run."""
    if axis not in {MetricAxis.SECONDS, MetricAxis.TIME}:
        return int(min(position / _per_iteration(job, axis), metric_buckets.MAX_ITERATION))
    newest = newest_iteration(session, job)
    width = metric_buckets.width_for(newest + 1, _LOOKUP_BUCKETS)
    series = list(job.latest_metrics)[:1]
    found = metric_buckets.read(session, job, series=series, start=0, stop=newest + 1, width=width)
    if not found:
        return 0
    (buckets,) = found.values()
    times = buckets.seconds if axis is MetricAxis.SECONDS else buckets.time
    index = bisect_left(times, position)
    return buckets.start[index] if index < len(times) else newest + 1


def positions(job: JobRow, axis: MetricAxis, buckets: Buckets) -> list[float]:
    """The last point of each bucket on that axis."""
    if axis is MetricAxis.SECONDS:
        return buckets.seconds
    if axis is MetricAxis.TIME:
        return buckets.time
    per_iteration = _per_iteration(job, axis)
    return [iteration * per_iteration for iteration in buckets.iteration]


def _per_iteration(job: JobRow, axis: MetricAxis) -> float:
    environment = records.environment_of(job)
    if axis is MetricAxis.EPOCH and environment is not None:
        return records.batch_size_of(job) / environment.train_images
    if axis is MetricAxis.MULTIPLY_ADDS and job.macs_per_iteration is not None:
        return job.macs_per_iteration
    if axis is MetricAxis.ITERATION:
        return 1
    message = f"is not known for job {job.id} before its training starts: {axis}"
    raise InvalidInput("the request is not valid", field_errors=(FieldError("/x", message),))
