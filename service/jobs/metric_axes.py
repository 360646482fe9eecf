"""What a curve is drawn against: iterations, epochs, training time, the time, or multiply-adds."""

from bisect import bisect_left
from enum import StrEnum
from functools import cached_property

from sqlalchemy.orm import Session

from service.errors import invalid_parameter
from service.jobs import metric_buckets, records
from service.jobs.metric_buckets import Buckets
from service.specs.series import is_diagnostic
from service.storage.tables import JobRow

# Buckets of a job in which a time is looked up.
_LOOKUP_BUCKETS = 1000


class MetricAxis(StrEnum):
    """`seconds`: training time over all attempts; `time`: seconds since 1970."""

    ITERATION = "iteration"
    EPOCH = "epoch"
    SECONDS = "seconds"
    TIME = "time"
    MULTIPLY_ADDS = "multiply-adds"


_TIMES = (MetricAxis.SECONDS, MetricAxis.TIME)


class JobAxis:
    """The axis for the metrics of one job. InvalidInput where its unit is not known yet."""

    def __init__(self, session: Session, job: JobRow, axis: MetricAxis) -> None:
        self._session = session
        self._job = job
        self._axis = axis
        self._per_iteration = None if axis in _TIMES else _find_scale(job, axis)

    def find_iteration(self, position: float) -> int:
        """The iteration at that position; a time is found to a thousandth of the run."""
        if self._per_iteration is not None:
            return int(min(position / self._per_iteration, metric_buckets.MAX_ITERATION))
        if self._lookup is None:
            return 0
        times = self.positions(self._lookup)
        index = bisect_left(times, position)
        return self._lookup.start[index] if index < len(times) else self._job.newest_iteration + 1

    def positions(self, buckets: Buckets) -> list[float]:
        """The last point of each bucket."""
        if self._per_iteration is not None:
            return [iteration * self._per_iteration for iteration in buckets.iteration]
        return buckets.seconds if self._axis is MetricAxis.SECONDS else buckets.time

    @cached_property
    def _lookup(self) -> Buckets | None:
        """One series, in which a time is looked up."""
        stop = self._job.newest_iteration + 1
        width = metric_buckets.choose_width(stop, _LOOKUP_BUCKETS)
        series = _list_training_series(self._job)[:1]
        found = metric_buckets.read(
            self._session, self._job, series=series, start=0, stop=stop, width=width
        )
        return next(iter(found.values()), None)


def _list_training_series(job: JobRow) -> list[str]:
    """Without the diagnostic ones, which have no point where these have none."""
    return [series for series in job.latest_metrics if not is_diagnostic(series)]


def _find_scale(job: JobRow, axis: MetricAxis) -> float:
    """Units of the axis in an iteration."""
    if axis is MetricAxis.ITERATION:
        return 1
    if axis is MetricAxis.MULTIPLY_ADDS and job.macs_per_iteration is not None:
        return job.macs_per_iteration
    environment = records.environment_of(job)
    if axis is MetricAxis.EPOCH and environment is not None:
        return records.batch_size_of(job) / environment.train_images
    message = f"is not known for job {job.id} before its training starts: {axis}"
    raise invalid_parameter("/x", message)
