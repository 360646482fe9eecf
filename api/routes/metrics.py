"""Metrics of several jobs in one response, in as many buckets as a chart has room for."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import Field

from api import problems
from api.dependencies import ReadSession, authorize
from api.queries import FilterText, RangeQuery
from api.views import View
from service.errors import NotFound, invalid_parameter
from service.jobs import metric_buckets, records
from service.jobs.metric_axes import JobAxis, MetricAxis
from service.storage.database import Session
from service.storage.tables import JobRow

router = APIRouter(prefix="/v1/metrics", tags=["metrics"], dependencies=[Depends(authorize)])

_MAX_JOBS = 100
_ENTRY = r"[0-9a-z]{1,16}\.[0-9]{1,10}\.[0-9]{1,10}"

Values = list[float | None]


class BucketsView(View):
    """Columns of equal length. Values that are not finite are left out; null: there is no other.

    `x` and `iteration` are those of the last point of a bucket, `start` is its first iteration.
    """

    x: list[float]
    start: list[int]
    iteration: list[int]
    count: list[int]
    mean: Values
    first: Values
    min: Values
    max: Values
    last: Values


class JobMetricsView(View):
    job_id: str
    width: Annotated[int, Field(description="iterations of a bucket")]
    series: dict[str, BucketsView]


class BucketedMetricsView(View):
    x: MetricAxis
    jobs: list[JobMetricsView]
    next: Annotated[str, Field(description="as `after`, continues at the last bucket of each job")]


@router.get("", responses=problems.responses(NotFound))
def read_metrics(
    session: ReadSession,
    range_: RangeQuery,
    job: Annotated[list[FilterText], Query(min_length=1, max_length=_MAX_JOBS)],
    series: Annotated[list[FilterText] | None, Query(max_length=_MAX_JOBS)] = None,
    buckets: Annotated[int, Query(ge=1, le=5000, description="at most, per series")] = 1000,
    after: Annotated[
        str | None,
        Query(
            max_length=8000,
            pattern=rf"^{_ENTRY}(~{_ENTRY})*$",
            description="`next` of a response",
        ),
    ] = None,
) -> BucketedMetricsView:
    """Metrics of jobs, with the lowest and highest value of each bucket, so that no peak is lost.

    With `after`, a bucket that had begun comes again; if a job's `width` has grown, all come.
    """
    known = _parse_cursor(after) if after is not None else {}
    views: list[JobMetricsView] = []
    cursor: list[str] = []
    for row in records.find_jobs(session, job):
        axis = JobAxis(session, row, range_.x)
        start = axis.find_iteration(range_.from_)
        stop = row.newest_iteration + 1
        if range_.to is not None:
            stop = min(stop, axis.find_iteration(range_.to) + 1)
        width = metric_buckets.choose_width(max(1, stop - start), buckets)
        known_width, known_start = known.get(row.id, (0, 0))
        # As wide as before, until there would be twice as many.
        if known_width >= width or 2 * known_width == width:
            width, start = known_width, max(start, known_start)
        view = _read_job(session, row, series, axis, start=start, stop=stop, width=width)
        views.append(view)
        last = max((column.start[-1] for column in view.series.values()), default=start)
        cursor.append(f"{row.id}.{width}.{last}")
    return BucketedMetricsView(x=range_.x, jobs=views, next="~".join(cursor))


def _read_job(
    session: Session,
    job: JobRow,
    series: Sequence[str] | None,
    axis: JobAxis,
    *,
    start: int,
    stop: int,
    width: int,
) -> JobMetricsView:
    found = metric_buckets.read(
        session, job, series=series or list(job.latest_metrics), start=start, stop=stop, width=width
    )
    return JobMetricsView(
        job_id=job.id,
        width=width,
        series={
            name: BucketsView(
                x=axis.positions(column),
                **{key: getattr(column, key) for key in BucketsView.model_fields if key != "x"},
            )
            for name, column in found.items()
        },
    )


def _parse_cursor(text: str) -> dict[str, tuple[int, int]]:
    """The width of the buckets and the start of the last, by job id."""
    known: dict[str, tuple[int, int]] = {}
    for entry in text.split("~"):
        job_id, width, start = entry.split(".")
        if int(width).bit_count() != 1 or int(start) > metric_buckets.MAX_ITERATION:
            raise invalid_parameter("/after", "is not the `next` of a response")
        known[job_id] = int(width), int(start)
    return known
